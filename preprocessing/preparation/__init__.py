"""Turns the cases of a manifest into a case store: checks, resamples and writes each of them."""
