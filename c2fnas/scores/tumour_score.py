"""How sure a network is that a scan shows a tumour: one number a patient, taken from the logits
while they are in memory.

The score is the mean margin of the most certain millilitre: of the voxels that the mask calls
tumour, those with the largest margin (the tumour's logit minus the higher of the others', natural
log-odds of the two) up to 1 ml, their margins added and divided by the number of voxels in 1 ml.
Where fewer are marked the rest count 0; a mask without tumour scores 0, every other one more.

Why not the volume: networks that saw few healthy patients mark as much in them as tumours have. Why
not the highest voxel: one voxel is noise, and 1 ml is a sphere of 12 mm. Source: chosen on
validation cases of seeds that no reported table uses, see docs/inference.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CLASS = 2  # tumour
VOLUME_ML = 1.0
HIGHEST = 1000.0  # a diverged network's logits give no larger score
_SMALLEST = np.float32(1e-37)  # of a probability before its logarithm


class TumourScore:
    """Collects the margins of a scan part by part; holds no more than 1 ml of them and one part's
    tumour voxels.

    Args:
      spacing_mm: of the grid on which the network segments.
    """

    def __init__(self, spacing_mm: Sequence[float]):
        self._count = max(1, round(1000.0 * VOLUME_ML / math.prod(spacing_mm)))
        self._kept = np.empty(0, np.float32)

    def add(self, mask: np.ndarray, logits: np.ndarray) -> None:
        """Takes in a part of the scan: mask uint8 [x, y, z] and its logits float32 [x, y, z,
        classes]. Keeps neither.
        """
        self._add(logits[mask == CLASS])

    def add_probabilities(self, mask: np.ndarray, probabilities: np.ndarray) -> None:
        """The same from the softmax of the logits, which has the same margins."""
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
        """The score of what was added so far, 0 to `HIGHEST`."""
        # sorted: the sum depends on what was added, not on where the scan was cut
        return min(HIGHEST, float(np.sort(self._kept).sum(dtype=np.float64)) / self._count)
