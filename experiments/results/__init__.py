"""Numbers computed from per-case rows: Table 1, intervals, claims and verdicts, digests."""
