"""Numbers made of per-case rows: Table 1, intervals, claims and verdicts, digests. No pages, no
training.
"""
