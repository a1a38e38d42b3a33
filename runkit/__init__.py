"""What every run needs, whatever it runs: atomic files, an event log, progress bars and repeatable
randomness.

A leaf package: standard library, NumPy and tqdm only. Every other package may import it, it imports
none of them.
"""
