"""A whole federation under one seed: see `__main__`."""
