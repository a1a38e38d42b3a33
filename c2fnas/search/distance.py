"""The distance between two topologies.

It is the sum over the cells of the difference of their levels. It is 0 only for equal topologies,
symmetric, and obeys the triangle inequality. If the topologies are drawn as walks over the levels,
it is the area between them. A cell on a neighbouring level counts 1; a cell two levels away, where
the receptive field of its convolutions has changed by another factor of two, counts 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import distance


def pairwise(levels: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns the distances of all pairs in scipy's condensed form, float64 [n * (n - 1) / 2].

    The order is that of scipy.spatial.distance.pdist: (0, 1), (0, 2), ..., (1, 2), ...

    Args:
      levels: for each topology, the level of each cell.
    """
    return distance.pdist(np.asarray(levels, dtype=np.float64), metric="cityblock")
