"""The tumour score: how certain a network is that a scan shows a tumour, one number per patient.

It is computed from the logits while they are in memory. The score is the mean margin of the most
certain millilitre. The margin of a voxel is the tumour's logit minus the highest of the other
logits, which is the natural log-odds of the two classes. Of the voxels that the mask labels as
tumour, the score takes those with the largest margins, up to 1 ml, and divides the sum of their
margins by the number of voxels in 1 ml. Missing voxels count as 0: a mask without a tumour scores
0, any other mask more.

The marked volume is not a suitable score: in healthy patients, networks that were trained on few of
them mark as much as in a tumour. Nor is the highest voxel: a single voxel may be noise, while 1 ml
is a sphere of 12 mm.
Source: chosen on validation cases of seeds that no reported table uses, see docs/inference.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CLASS = 2  # tumour
VOLUME_ML = 1.0
HIGHEST = 1000.0  # cap of the score, for the logits of a diverged network
_SMALLEST = np.float32(1e-37)  # lower limit of a probability before its logarithm


class TumourScore:
    """Collects the margins of a scan part by part.

    It keeps at most 1 ml of them, besides the tumour voxels of one part.

    Args:
      spacing_mm: spacing along x, y, z of the grid on which the network segments.
    """

    def __init__(self, spacing_mm: Sequence[float]):
        self._count = max(1, round(1000.0 * VOLUME_ML / math.prod(spacing_mm)))
        self._kept = np.empty(0, np.float32)

    def add(self, mask: np.ndarray, logits: np.ndarray) -> None:
        """Adds a part of the scan. Keeps neither array.

        Args:
          mask: uint8 [x, y, z].
          logits: float32 [x, y, z, classes].
        """
        self._add(logits[mask == CLASS])

    def add_probabilities(self, mask: np.ndarray, probabilities: np.ndarray) -> None:
        """Adds a part by the softmax of its logits, which has the same margins."""
        self._add(np.log(np.maximum(probabilities[mask == CLASS], _SMALLEST)))

    def _add(self, marked: np.ndarray) -> None:
        if len(marked):
            margins = np.concatenate(
                [self._kept, marked[:, CLASS] - np.delete(marked, CLASS, axis=1).max(axis=1)]
            )
            keep = min(self._count, len(margins))
            self._kept = np.partition(margins, len(margins) - keep)[len(margins) - keep :]

    @property
    def value(self) -> float:
        """The score of the parts added so far, 0 to `HIGHEST`."""
        # Sorted, so that the sum does not depend on where the scan was cut into parts.
        return min(HIGHEST, float(np.sort(self._kept).sum(dtype=np.float64)) / self._count)
