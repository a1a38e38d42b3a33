"""The Gaussian mechanism on an update: its change is clipped, then noise is added to every value.

Neighbouring data sets differ in one patient, who is replaced by another; the number of patients is
the same. Both clipped changes lie in a ball of radius C, so they differ by at most 2 C, whatever
the training did with the patient, and the noise of standard deviation z C is z / 2 times that. The
bound is on the whole change, so the same holds if any number of the patients are replaced. Dwork
and Roth 2014; Balle and Wang 2018.
"""

from __future__ import annotations

import math

import numpy as np

from federated.privacy import clipping
from federated.privacy.noise import (
    GAUSSIAN_BITS,
    Bits,
    gaussian,
    grid,
    on_grid,
    system_bits,
)

REACH = 2.0  # distance by which one patient can move a clipped change, in clipping norms


def noisy(
    change: np.ndarray, *, clip_norm: float, noise: float, bits: Bits = system_bits
) -> np.ndarray:
    """Returns the clipped change with noise, float64 [values].

    Args:
      change: float64 [values], trained minus received weights.
      clip_norm: largest Euclidean norm before noise.
      noise: standard deviation of the noise in clipping norms.
      bits: source of randomness.
    Raises:
      ValueError: if there are so many values that rounding them to the grid of the noise could move
        the change by as much as the clipping norm.
    """
    cell = grid(noise * clip_norm, GAUSSIAN_BITS)
    limit = clip_norm - 0.5 * cell * math.sqrt(change.size)  # rounding adds at most the rest
    if limit <= 0.5 * clip_norm:
        raise ValueError(
            f"noise {noise:g} on {change.size} values is too coarse for clipping norm "
            f"{clip_norm:g}; give less noise"
        )
    whole = on_grid(clipping.clipped(change, limit), cell)
    whole += on_grid(gaussian(change.size, bits) * (noise * clip_norm), cell)
    return whole * cell
