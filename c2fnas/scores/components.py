"""Connected components of masks.

Voxels that share a face, an edge or a corner are connected (26 neighbours).

A mask is read as runs, stretches of voxels along z, and the runs that touch are connected. That is
faster than `scipy.ndimage.label`, which goes through the volume voxel by voxel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse.csgraph

from c2fnas.scores import boxes


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


class _Runs(NamedTuple):
    """The runs of a mask with a border of zeros, in array order.

    Attributes:
      starts, ends: int64 [n]: index of a run's first voxel in the flat array, and of the first one
        after it.
      labels: int32 [n]: the run's component, numbered from 0 in the order of first voxels.
      components: number of components.
    """

    starts: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    components: int

    def of(self, voxels: np.ndarray) -> np.ndarray:
        """Returns the components of voxels of the mask, given by their indices."""
        return self.labels[np.searchsorted(self.starts, voxels, side="right") - 1]


def count(mask: np.ndarray) -> int:
    """Returns the number of components of a mask, bool [x, y, z]."""
    box = boxes.around(mask)
    return 0 if box is None else _connected(boxes.padded(mask[box])).components


def count_matches(prediction: np.ndarray, truth: np.ndarray) -> Match:
    """Counts the components of a predicted and a true mask, bool [x, y, z], and those that overlap.

    Two components overlap if they share at least one voxel.
    """
    box = boxes.around(prediction | truth)
    if box is None:
        return Match(0, 0, 0, 0)
    prediction, truth = boxes.padded(prediction[box]), boxes.padded(truth[box])
    own, true = _connected(prediction), _connected(truth)
    shared, _ = _runs(prediction & truth)  # each lies within one run of either mask
    return Match(
        own.components,
        true.components,
        len(np.unique(true.of(shared))),
        own.components - len(np.unique(own.of(shared))),
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
    padded = boxes.padded(mask[box] > 0)
    runs = _connected(padded)
    sizes = np.bincount(runs.labels, weights=runs.ends - runs.starts)
    others = runs.labels != np.argmax(sizes)
    flat = padded.ravel()
    for start, end in zip(runs.starts[others], runs.ends[others], strict=True):
        flat[start:end] = False
    kept = np.zeros_like(mask)
    kept[box] = np.where(padded[1:-1, 1:-1, 1:-1], mask[box], 0)
    return kept


def _connected(padded: np.ndarray) -> _Runs:
    """Returns the runs of a mask, bool [x, y, z] with a border of zeros, and their components."""
    starts, ends = _runs(padded)
    plane, row, _ = padded.strides
    # Only the rows that follow a row and touch it: those before it have found it already.
    following = (row, plane - row, plane, plane + row)
    pairs = [_touching(starts, ends, shift) for shift in following]
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    touching = scipy.sparse.coo_array(
        (np.ones(len(one), bool), (one, other)), shape=(len(starts), len(starts))
    )
    components, labels = scipy.sparse.csgraph.connected_components(touching, directed=False)
    return _Runs(starts, ends, labels, components)


def _runs(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the starts and ends of a mask's runs, see `_Runs`."""
    flat = padded.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return changes[::2], changes[1::2]


def _touching(starts: np.ndarray, ends: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pairs of runs of which the second touches the first in the row at `shift`.

    Runs that meet only at a corner touch as well. The border of zeros keeps runs of other rows out
    of reach.
    """
    first = np.searchsorted(ends, starts + shift, side="left")
    counts = np.searchsorted(starts, ends + shift, side="right") - first
    before = np.cumsum(counts) - counts
    others = np.arange(counts.sum()) - np.repeat(before - first, counts)
    return np.repeat(np.arange(len(starts)), counts), others
