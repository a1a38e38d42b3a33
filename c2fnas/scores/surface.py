"""Distances between the surfaces of two masks: Hausdorff distance at a percentile, and surface Dice
at a tolerance.

A surface is a set of points with weights, in one of two definitions:

* `border`: the voxels of the mask with a face neighbour outside it (beyond the volume is outside),
  each of weight 1. As MONAI's `compute_hausdorff_distance` and its `compute_surface_dice` without
  subvoxels.
* `area`: a marching-cubes element wherever eight neighbouring voxels differ, weighted by its area
  in mm2. As DeepMind's `surface-distance`, and MONAI's `compute_surface_dice` with subvoxels.

Only surface points are compared, by a tree of the other surface's points: the time goes with the
surfaces, not with the volume or with how far apart they lie.

A distance is computed from the difference of two voxel indices, as DeepMind's is, so that it is the
same to the last bit wherever the two masks lie. Coordinates in mm would not do: 12 x 0.4 mm minus 7
x 0.4 mm is more than 2 mm, 10 x 0.4 mm minus 5 x 0.4 mm is not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import scipy.spatial

from c2fnas.scores import boxes, surface_elements

Definition = Literal["border", "area"]


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """Points of a surface.

    Attributes:
      places: int64 [n, 3], voxels from the corner of the array the mask came in.
      weights: float64 [n]: 1 for a border voxel, mm2 for an area element.
      definition: which of the two it is.
      spacing_mm: of the array, per axis.
    """

    places: np.ndarray
    weights: np.ndarray
    definition: Definition
    spacing_mm: tuple[float, ...]

    @functools.cached_property
    def corner(self) -> np.ndarray:
        return self.places.min(axis=0)

    @functools.cached_property
    def tree(self) -> scipy.spatial.cKDTree:
        """Of the points in mm from the surface's own corner, so that it does not depend on where in
        the array the mask lies.
        """
        # unbalanced: it takes a fraction of the time to build and is no slower to ask
        return scipy.spatial.cKDTree(
            (self.places - self.corner) * self.spacing_mm, balanced_tree=False, compact_nodes=False
        )


def of_mask(mask: np.ndarray, spacing_mm: Sequence[float], definition: Definition) -> Surface:
    """Returns the surface of a mask, bool [x, y, z]; it has no points where the mask has no voxel.

    Raises:
      ValueError: for another definition.
    """
    if definition not in get_args(Definition):
        raise ValueError(
            f"definition is {definition!r}; expected one of {', '.join(get_args(Definition))}"
        )
    spacing = tuple(float(length) for length in spacing_mm)
    box = boxes.around(mask)
    if box is None:
        return Surface(np.zeros((0, 3), dtype=np.int64), np.zeros(0), definition, spacing)
    inner = np.pad(mask[box], 1)
    if definition == "border":
        places = _border_voxels(inner)
        weights = np.ones(len(places))
    else:
        places, codes = _elements(inner)
        weights = surface_elements.areas(spacing_mm)[codes]
    start = np.array([part.start for part in box])
    # one element stands between eight voxels; its place is that of the first of them, in both
    # surfaces alike
    return Surface(places + start, weights, definition, spacing)


def area_mm2(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Returns the area of a mask's surface (marching cubes)."""
    return float(of_mask(mask, spacing_mm, "area").weights.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Distances:
    """How far two surfaces that both have points lie apart: for every point of one, the nearest
    point of the other, in mm.
    """

    to_truth_mm: np.ndarray
    to_prediction_mm: np.ndarray
    prediction: Surface
    truth: Surface


def distances(prediction: Surface, truth: Surface) -> Distances:
    """Measures two surfaces of one definition, on one grid.

    Raises:
      ValueError: if one of them has no points, or they are of two definitions or spacings.
    """
    if prediction.definition != truth.definition:
        raise ValueError(
            f"the surfaces are {prediction.definition} and {truth.definition}; take both by one definition"
        )
    if prediction.spacing_mm != truth.spacing_mm:
        raise ValueError(
            f"the surfaces are of {prediction.spacing_mm} and {truth.spacing_mm} mm; bring both masks to one grid"
        )
    if not len(prediction.weights) or not len(truth.weights):
        raise ValueError(
            "one surface has no points, so there is no distance; metrics.compare says what an absent class scores"
        )
    return Distances(
        _nearest_mm(prediction, truth), _nearest_mm(truth, prediction), prediction, truth
    )


def hausdorff_mm(measured: Distances, percentile: float = 95.0) -> float:
    """Returns the larger of the two percentiles of the distances.

    Border voxels: interpolated between the two nearest ranks, as NumPy and MONAI. Area elements:
    the smallest distance within which at least that share of the area lies, as DeepMind.
    """
    return max(
        _percentile(measured.to_truth_mm, measured.prediction, percentile),
        _percentile(measured.to_prediction_mm, measured.truth, percentile),
    )


def surface_dice(measured: Distances, tolerance_mm: float) -> float:
    """Returns the share of both surfaces together, by weight, that lies within the tolerance of the
    other one: 0 to 1.

    Raises:
      ValueError: if the tolerance is below 0.
    """
    if tolerance_mm < 0:
        raise ValueError(f"tolerance_mm is {tolerance_mm}; expected a length of at least 0 mm")
    prediction, truth = measured.prediction, measured.truth
    near = prediction.weights[_within(measured.to_truth_mm, prediction, truth, tolerance_mm)].sum()
    near += truth.weights[_within(measured.to_prediction_mm, truth, prediction, tolerance_mm)].sum()
    return float(near / (prediction.weights.sum() + truth.weights.sum()))


def _nearest_mm(surface: Surface, other: Surface) -> np.ndarray:
    """Returns float64 [n]: how far each point of `surface` is from the nearest of `other`."""
    _, nearest = other.tree.query((surface.places - other.corner) * other.spacing_mm, workers=-1)
    return _length_mm(surface.places - other.places[nearest], other)


def _length_mm(steps: np.ndarray, surface: Surface) -> np.ndarray:
    return np.sqrt(((steps * surface.spacing_mm) ** 2).sum(axis=-1))


def _within(
    distances_mm: np.ndarray, surface: Surface, other: Surface, tolerance_mm: float
) -> np.ndarray:
    """Returns bool [n]: which points of `surface` have one of `other` within the tolerance.

    Two steps may be equally long and their lengths still differ in the last bit, as three of 0.1 mm
    and one of 0.3 mm do. The tree names either of them; where that decides, all are asked.
    """
    within = distances_mm <= tolerance_mm
    limit = tolerance_mm * (1 + 1e-9)
    undecided = np.flatnonzero(~within & (distances_mm <= limit))
    if undecided.size:
        places = surface.places[undecided]
        tied = other.tree.query_ball_point(
            (places - other.corner) * other.spacing_mm, limit, workers=-1
        )
        for index, place, candidates in zip(undecided, places, tied, strict=True):
            within[index] = bool(
                (_length_mm(place - other.places[candidates], other) <= tolerance_mm).any()
            )
    return within


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
    """Returns int64 [n, 3], the first voxel of eight that differ, in the unpadded mask (-1 for the
    padding), and their uint8 [n] code.
    """
    shape = tuple(n - 1 for n in padded.shape)
    codes = np.zeros(shape, dtype=np.uint8)
    voxels = padded.view(np.uint8)
    for corner in range(8):
        part = voxels[
            tuple(
                slice(offset, offset + n)
                for offset, n in zip(np.unravel_index(corner, (2, 2, 2)), shape, strict=True)
            )
        ]
        codes |= part << np.uint8(corner)
    places = np.nonzero((codes != 0) & (codes != 255))
    return np.stack(places, axis=1) - 1, codes[places]
