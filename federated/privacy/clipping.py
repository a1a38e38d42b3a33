"""Bounds the norm of an update's change, and so the effect that one patient can have on it."""

from __future__ import annotations

import math

import numpy as np

_ROUNDING = 1e-9  # more than the relative error of a norm of 2**34 values in float64


def norm(change: np.ndarray) -> float:
    """Returns the Euclidean norm of a change, without overflow."""
    largest = float(np.abs(change).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    scaled = change / largest
    return largest * math.sqrt(float(np.dot(scaled, scaled)))


def clipped(change: np.ndarray, limit: float) -> np.ndarray:
    """Returns the change, scaled down if its norm is above the limit.

    Args:
      change: float64 [values], trained minus received weights.
      limit: largest Euclidean norm of the result, which is never above it.
    """
    found = norm(change)
    if found <= limit * (1.0 - _ROUNDING):
        return change
    scaled: np.ndarray = change * (limit * (1.0 - _ROUNDING) / found)
    return scaled
