"""Intervals, tests, power, correlations and error rates: arrays in, values out."""
