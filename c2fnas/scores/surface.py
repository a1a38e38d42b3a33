"""Distances between the surfaces of two masks: Hausdorff distance and surface Dice.

A surface is a set of points with weights, in one of two definitions:

* `border`: the voxels of the mask that have a face neighbour outside it, each with weight 1. The
  space beyond the volume counts as outside. MONAI uses it in `compute_hausdorff_distance`, and in
  `compute_surface_dice` without subvoxels.
* `area`: a marching-cubes element wherever eight neighbouring voxels differ, weighted by its area
  in mm2. DeepMind's `surface-distance` uses it, and MONAI's `compute_surface_dice` with subvoxels.

A search tree of the other surface's points finds the nearest one, so the time depends on the size
of the surfaces and not on the volume or on how far apart they lie.

A distance is computed from the difference of two voxel indices, as in DeepMind's code, so that it
is the same to the last bit wherever the two masks lie. Coordinates in mm are not exact enough:
12 x 0.4 mm minus 7 x 0.4 mm is more than 2 mm, 10 x 0.4 mm minus 5 x 0.4 mm is not.
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
    """The points of a surface.

    Attributes:
      places: int64 [n, 3], in voxels from the corner of the mask's array.
      weights: float64 [n]: 1 for a border voxel, mm2 for an area element.
      definition: the definition of the surface.
      spacing_mm: spacing of the array along x, y, z.
    """

    places: np.ndarray
    weights: np.ndarray
    definition: Definition
    spacing_mm: tuple[float, ...]

    @functools.cached_property
    def corner(self) -> np.ndarray:
        """The lowest index along each axis, int64 [3]."""
        return self.places.min(axis=0)

    @functools.cached_property
    def tree(self) -> scipy.spatial.cKDTree:
        """A search tree of the points, in mm from the surface's own corner.

        It does not depend on where in the array the mask lies.
        """
        # An unbalanced tree is built in a fraction of the time, and queries are no slower.
        return scipy.spatial.cKDTree(
            (self.places - self.corner) * self.spacing_mm, balanced_tree=False, compact_nodes=False
        )


def of_mask(mask: np.ndarray, spacing_mm: Sequence[float], definition: Definition) -> Surface:
    """Returns the surface of a mask, bool [x, y, z]. An empty mask has a surface without points.

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
    inner = boxes.padded(mask[box])
    if definition == "border":
        places = _border_voxels(inner)
        weights = np.ones(len(places))
    else:
        places, codes = _elements(inner)
        weights = surface_elements.areas(spacing_mm)[codes]
    start = np.array([part.start for part in box])
    # An element lies between eight voxels; its place is that of the first one.
    return Surface(places + start, weights, definition, spacing)


@dataclasses.dataclass(frozen=True, eq=False)
class Distances:
    """The distances between two surfaces.

    Attributes:
      to_truth_mm: float64 [n]: for each point of the prediction, the distance to the nearest point
        of the truth.
      to_prediction_mm: float64 [m]: for each point of the truth, the distance to the nearest point
        of the prediction.
      prediction, truth: the surfaces.
    """

    to_truth_mm: np.ndarray
    to_prediction_mm: np.ndarray
    prediction: Surface
    truth: Surface


def distances(prediction: Surface, truth: Surface) -> Distances:
    """Measures the distances between two surfaces of one definition on one grid.

    Raises:
      ValueError: if one of them has no points, or if definitions or spacings differ.
    """
    if prediction.definition != truth.definition:
        raise ValueError(
            f"the surfaces are {prediction.definition} and {truth.definition}; "
            "compute both by the same definition"
        )
    if prediction.spacing_mm != truth.spacing_mm:
        raise ValueError(
            f"the surfaces are of {prediction.spacing_mm} and {truth.spacing_mm} mm; "
            "bring both masks to the same grid"
        )
    if not len(prediction.weights) or not len(truth.weights):
        raise ValueError(
            "one surface has no points, so there is no distance; "
            "case_scores.compare scores absent classes"
        )
    return Distances(
        _nearest_mm(prediction, truth), _nearest_mm(truth, prediction), prediction, truth
    )


def hausdorff_mm(measured: Distances, percentile: float = 95.0) -> float:
    """Returns the larger of the two percentiles of the distances.

    For border voxels, it is interpolated between the two nearest ranks, as in NumPy and MONAI. For
    area elements, it is the smallest distance within which at least that share of the area lies, as
    in DeepMind's code.
    """
    return max(
        _percentile(measured.to_truth_mm, measured.prediction, percentile),
        _percentile(measured.to_prediction_mm, measured.truth, percentile),
    )


def surface_dice(measured: Distances, tolerance_mm: float) -> float:
    """Returns the share of both surfaces, by weight, within a tolerance of the other one: 0 to 1.

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
    """Returns float64 [n]: the distance of each point of `surface` to the nearest of `other`."""
    _, nearest = other.tree.query((surface.places - other.corner) * other.spacing_mm, workers=-1)
    return _length_mm(surface.places - other.places[nearest], other)


def _length_mm(steps: np.ndarray, surface: Surface) -> np.ndarray:
    return np.sqrt(((steps * surface.spacing_mm) ** 2).sum(axis=-1))


def _within(
    distances_mm: np.ndarray, surface: Surface, other: Surface, tolerance_mm: float
) -> np.ndarray:
    """Returns bool [n]: whether each point of `surface` has one of `other` within the tolerance.

    Two equal distances may differ in their last bit, for example three times 0.1 mm and once
    0.3 mm, and the tree may return either. Where the last bit decides, all points at that distance
    are checked.
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
    """Returns int64 [n, 3]: the border voxels' places in the unpadded mask, in array order."""
    mask = padded.ravel()
    # A neighbour lies one step away in memory. The padding keeps it from being that of another row.
    plane = padded.strides[0]
    inside = mask[plane:-plane].copy()
    for step in padded.strides:
        inside &= mask[plane - step : len(mask) - plane - step]
        inside &= mask[plane + step : len(mask) - plane + step]
    places = np.flatnonzero(mask[plane:-plane] & ~inside) + plane
    return np.stack(np.unravel_index(places, padded.shape), axis=1) - 1


def _elements(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of the area elements and the codes of their neighbourhoods.

    Returns:
      int64 [n, 3]: place of the first of the eight voxels in the unpadded mask, -1 in the padding;
      uint8 [n]: number of the neighbourhood, see `surface_elements.areas`.
    """
    codes = padded.view(np.uint8).ravel()
    # Bits of the voxels that follow along z, then of those pairs along y, then of those fours along
    # x. Neighbourhoods that cross the end of a row hold nothing but padding.
    for step, bits in zip(reversed(padded.strides), (1, 2, 4), strict=True):
        codes = codes[:-step] | codes[step:] << np.uint8(bits)
    places = np.flatnonzero(codes + np.uint8(1) > 1)  # neither 0 nor 255, which becomes 0
    return np.stack(np.unravel_index(places, padded.shape), axis=1) - 1, codes[places]
