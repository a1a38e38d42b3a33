"""Connected components of masks.

Voxels that share a face, an edge or a corner are connected (26 neighbours).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.ndimage

from c2fnas.scores import boxes

_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


class Match(NamedTuple):
    """Numbers of components of a prediction and of the truth.

    Attributes:
      predicted: components of the prediction.
      present: components of the truth.
      found: components of the truth that share a voxel with the prediction.
      false: components of the prediction that share no voxel with the truth.
    """

    predicted: int
    present: int
    found: int
    false: int


def count(mask: np.ndarray) -> int:
    """Returns the number of components of a mask, bool [x, y, z]."""
    box = boxes.around(mask)
    return 0 if box is None else int(scipy.ndimage.label(mask[box], _NEIGHBOURS)[1])


def count_matches(prediction: np.ndarray, truth: np.ndarray) -> Match:
    """Counts the components of a predicted and a true mask, bool [x, y, z], and those that overlap.

    Two components overlap if they share at least one voxel.
    """
    box = boxes.around(prediction | truth)
    if box is None:
        return Match(0, 0, 0, 0)
    prediction, truth = prediction[box], truth[box]
    (own, predicted), (true, present) = (
        scipy.ndimage.label(mask, _NEIGHBOURS) for mask in (prediction, truth)
    )
    both = prediction & truth
    return Match(
        predicted, present, len(np.unique(true[both])), predicted - len(np.unique(own[both]))
    )


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """Returns a segmentation with everything but its largest component set to 0.

    A component may consist of several classes above 0: pancreas and tumour count as one organ,
    because a tumour lies in or on the pancreas. Of two equally large components the first in array
    order is kept.

    Args:
      mask: uint8 [x, y, z].
    Returns:
      uint8 [x, y, z], a copy.
    """
    box = boxes.around(mask)
    if box is None:
        return mask.copy()
    labels, _ = scipy.ndimage.label(mask[box] > 0, _NEIGHBOURS)
    sizes = np.bincount(labels.ravel())
    largest = 1 + int(np.argmax(sizes[1:]))
    kept = np.zeros_like(mask)
    kept[box] = np.where(labels == largest, mask[box], 0)
    return kept
