"""Membership inference against the models of a run: targets, losses, the measurement."""
