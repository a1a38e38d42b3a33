"""Numbers computed from per-case rows: Table 1, summaries, patients, digests."""
