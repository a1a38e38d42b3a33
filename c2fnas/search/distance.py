"""The distance between two topologies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import distance


def level_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns the sum over the cells of the difference of their levels.

    It is 0 only for equal topologies, symmetric, and obeys the triangle inequality. If the
    topologies are drawn as walks over the levels, it is the area between them. A cell on a
    neighbouring level counts 1; a cell two levels away, where the receptive field of its
    convolutions has changed by another factor of two, counts 2.

    Args:
      one, other: the level of each cell.
    Raises:
      ValueError: if they have different numbers of cells.
    """
    if len(one) != len(other):
        raise ValueError(f"topologies of {len(one)} and {len(other)} cells have no distance")
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def pairwise(levels: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns `level_distance` of all pairs in scipy's condensed form, float64 [n * (n - 1) / 2].

    The order is that of scipy.spatial.distance.pdist: (0, 1), (0, 2), ..., (1, 2), ...
    """
    return distance.pdist(np.asarray(levels, dtype=np.float64), metric="cityblock")
