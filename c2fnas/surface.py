"""Distances between the surfaces of two masks: Hausdorff distance at a percentile, and surface Dice at a tolerance.

A surface is a set of points with weights, in one of two definitions:

* `border`: the voxels of the mask with a face neighbour outside it (beyond the volume is outside), each of weight 1. As MONAI's
  `compute_hausdorff_distance` and its `compute_surface_dice` without subvoxels.
* `area`: a marching-cubes element wherever eight neighbouring voxels differ, weighted by its area in mm2. As DeepMind's
  `surface-distance`, and MONAI's `compute_surface_dice` with subvoxels.

Only surface points are compared, by a tree of the other surface's points: the time goes with the surfaces, not with the volume
or with how far apart they lie.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import scipy.spatial

from c2fnas import boxes, surface_elements

Definition = Literal["border", "area"]


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """Points of a surface.

    Attributes:
      points_mm: float64 [n, 3], from the corner of the array the mask came in.
      weights: float64 [n]: 1 for a border voxel, mm2 for an area element.
      definition: which of the two it is.
    """

    points_mm: np.ndarray
    weights: np.ndarray
    definition: Definition

    @functools.cached_property
    def tree(self) -> scipy.spatial.cKDTree:
        # unbalanced: it takes a fraction of the time to build and is no slower to ask
        return scipy.spatial.cKDTree(self.points_mm, balanced_tree=False, compact_nodes=False)


def of_mask(mask: np.ndarray, spacing_mm: Sequence[float], definition: Definition) -> Surface:
    """Returns the surface of a mask, bool [x, y, z]; it has no points where the mask has no voxel.

    Raises:
      ValueError: for another definition.
    """
    if definition not in get_args(Definition):
        raise ValueError(f"definition is {definition!r}; expected one of {', '.join(get_args(Definition))}")
    box = boxes.around(mask)
    if box is None:
        return Surface(np.zeros((0, 3)), np.zeros(0), definition)
    inner = np.pad(mask[box], 1)
    if definition == "border":
        places = _border_voxels(inner)
        weights = np.ones(len(places))
    else:
        places, codes = _elements(inner)
        weights = surface_elements.areas(spacing_mm)[codes]
    start = np.array([part.start for part in box])
    # one element stands between eight voxels; its place is that of the first of them, in both surfaces alike
    return Surface((places + start) * np.asarray(spacing_mm, dtype=np.float64), weights, definition)


def area_mm2(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Returns the area of a mask's surface (marching cubes)."""
    return float(of_mask(mask, spacing_mm, "area").weights.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Distances:
    """How far two surfaces that both have points lie apart: for every point of one, the nearest point of the other, in mm."""

    to_truth_mm: np.ndarray
    to_prediction_mm: np.ndarray
    prediction: Surface
    truth: Surface


def distances(prediction: Surface, truth: Surface) -> Distances:
    """Measures two surfaces of one definition, on one grid.

    Raises:
      ValueError: if one of them has no points, or they are of two definitions.
    """
    if prediction.definition != truth.definition:
        raise ValueError(f"the surfaces are {prediction.definition} and {truth.definition}; take both by one definition")
    if not len(prediction.weights) or not len(truth.weights):
        raise ValueError("one surface has no points, so there is no distance; metrics.compare says what an absent class scores")
    to_truth, _ = truth.tree.query(prediction.points_mm, workers=-1)
    to_prediction, _ = prediction.tree.query(truth.points_mm, workers=-1)
    return Distances(to_truth, to_prediction, prediction, truth)


def hausdorff_mm(measured: Distances, percentile: float = 95.0) -> float:
    """Returns the larger of the two percentiles of the distances.

    Border voxels: interpolated between the two nearest ranks, as NumPy and MONAI. Area elements: the smallest distance within
    which at least that share of the area lies, as DeepMind.
    """
    return max(
        _percentile(measured.to_truth_mm, measured.prediction, percentile),
        _percentile(measured.to_prediction_mm, measured.truth, percentile),
    )


def surface_dice(measured: Distances, tolerance_mm: float) -> float:
    """Returns the share of both surfaces together, by weight, that lies within the tolerance of the other one: 0 to 1.

    Raises:
      ValueError: if the tolerance is below 0.
    """
    if tolerance_mm < 0:
        raise ValueError(f"tolerance_mm is {tolerance_mm}; expected a length of at least 0 mm")
    near = measured.prediction.weights[measured.to_truth_mm <= tolerance_mm].sum()
    near += measured.truth.weights[measured.to_prediction_mm <= tolerance_mm].sum()
    return float(near / (measured.prediction.weights.sum() + measured.truth.weights.sum()))


def _percentile(distances_mm: np.ndarray, surface: Surface, percentile: float) -> float:
    if surface.definition == "border":
        return float(np.percentile(distances_mm, percentile))
    order = np.argsort(distances_mm, kind="stable")
    share = np.cumsum(surface.weights[order]) / surface.weights.sum()
    rank = int(np.searchsorted(share, percentile / 100.0))
    return float(distances_mm[order[min(rank, len(order) - 1)]])


def _border_voxels(padded: np.ndarray) -> np.ndarray:
    """Returns int64 [n, 3], in the unpadded mask, in array order."""
    mask = padded[1:-1, 1:-1, 1:-1]
    inside = mask.copy()
    for axis in range(3):
        for step in (slice(None, -2), slice(2, None)):
            inside &= padded[tuple(step if other == axis else slice(1, -1) for other in range(3))]
    return np.stack(np.nonzero(mask & ~inside), axis=1)


def _elements(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 [n, 3], the first voxel of eight that differ, in the unpadded mask (-1 for the padding), and their uint8 [n] code."""
    shape = tuple(n - 1 for n in padded.shape)
    codes = np.zeros(shape, dtype=np.uint8)
    voxels = padded.view(np.uint8)
    for corner in range(8):
        part = voxels[tuple(slice(offset, offset + n) for offset, n in zip(np.unravel_index(corner, (2, 2, 2)), shape, strict=True))]
        codes |= part << np.uint8(corner)
    places = np.nonzero((codes != 0) & (codes != 255))
    return np.stack(places, axis=1) - 1, codes[places]
