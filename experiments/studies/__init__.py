"""Studies: their files, how they run, and their results."""
