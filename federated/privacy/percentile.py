"""Shares only the largest changes of an update (Li et al. 2019; Shokri and Shmatikov 2015).

This gives no guarantee: which values are shared, and what they are, depends on every patient
without any noise. It makes an update smaller and hides the smallest changes.
"""

from __future__ import annotations

import numpy as np


def largest(change: np.ndarray, percentile: float) -> np.ndarray:
    """Returns which values are shared, bool [values].

    Args:
      change: float64 [values].
      percentile: this many per cent of the values are not shared. Of equal values at the threshold,
        the first ones are shared, so that never more values are shared than requested.
    """
    shared = np.zeros(change.size, dtype=bool)
    count = int(change.size * (1.0 - percentile / 100.0))
    if count == 0:
        return shared
    magnitude = np.abs(change)
    border = np.partition(magnitude, change.size - count)[change.size - count]
    shared[magnitude > border] = True
    equal = np.flatnonzero(magnitude == border)
    shared[equal[: count - int(shared.sum())]] = True
    return shared


def bounded(change: np.ndarray, gamma: float | None) -> np.ndarray:
    """Returns the values clipped to the range from -gamma to gamma; None leaves them unchanged."""
    return change if gamma is None else np.clip(change, -gamma, gamma)
