"""All measures of one prediction: overlap, surface distances, volumes and shape.

Absent classes follow the rule in metrics.py. Public tools leave such cases undefined or drop them
from their means. Here a false tumour in a healthy patient counts, and means never silently leave
out cases.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from c2fnas.scores import boxes, components, metrics, surface
from runkit.classes import FOREGROUND

TOLERANCE_MM = 2.0  # default tolerance of the surface Dice


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScores:
    """The scores of one class in one case. Names with `truth_` are the same measures of the truth.

    Attributes:
      dice: 2 |P and T| / (|P| + |T|).
      hd95_mm: Hausdorff distance at the 95th percentile, between border voxels.
      nsd: surface Dice at a tolerance, by area (also called normalised surface distance).
      volume_ml: volume of the class in the prediction.
      volume_error_ml: volume_ml - truth_volume_ml.
      components: number of connected parts (26 neighbours).
      found: number of the truth's parts that share a voxel with the prediction.
      false_components: number of the prediction's parts that share no voxel with the truth.
      surface_volume_ratio: area of the surface (marching cubes) divided by the volume, 1/mm; the
        rougher of two equally large tumours has the larger ratio. None if the class has no voxel.
    """

    dice: float | None
    hd95_mm: float | None
    nsd: float | None
    volume_ml: float
    truth_volume_ml: float
    volume_error_ml: float | None
    components: int
    truth_components: int
    found: int
    false_components: int
    surface_volume_ratio: float | None
    truth_surface_volume_ratio: float | None


def compare(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    classes: Sequence[int] = tuple(FOREGROUND),
    tolerance_mm: float = TOLERANCE_MM,
) -> dict[int, ClassScores]:
    """Returns value of a class -> its scores.

    Args:
      prediction, truth: integer [x, y, z] on one grid; values 0 to max(classes).
      spacing_mm: spacing of that grid along x, y, z.
      classes: values of the classes to score.
      tolerance_mm: the distance up to which a surface counts as right in `nsd`.
    Raises:
      ValueError: if the shapes differ, a value is not a class, or the tolerance is below 0.
    """
    metrics.check_pair(prediction, truth, max(classes) + 1)
    diagonal_mm = math.hypot(
        *((n - 1) * length for n, length in zip(truth.shape, spacing_mm, strict=True))
    )
    box = boxes.around(prediction | truth) or (slice(0), slice(0), slice(0))
    # Masks that come from files have their axes in the other order.
    prediction, truth = (np.ascontiguousarray(mask[box]) for mask in (prediction, truth))
    return {
        value: _class_scores(
            prediction == value, truth == value, spacing_mm, tolerance_mm, diagonal_mm
        )
        for value in classes
    }


def _class_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    diagonal_mm: float,
) -> ClassScores:
    voxels, true_voxels = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    voxel_mm3 = math.prod(spacing_mm)
    areas = [surface.of_mask(mask, spacing_mm, "area") for mask in (prediction, truth)]
    hd95_mm: float | None = None
    nsd: float | None = None
    if voxels and true_voxels:
        borders = [surface.of_mask(mask, spacing_mm, "border") for mask in (prediction, truth)]
        hd95_mm = surface.hausdorff_mm(surface.distances(*borders), 95.0)
        nsd = surface.surface_dice(surface.distances(*areas), tolerance_mm)
    elif voxels or true_voxels:
        hd95_mm, nsd = diagonal_mm, 0.0
    present = voxels + true_voxels > 0
    parts = components.count_matches(prediction, truth)
    ratios = [
        float(area.weights.sum()) / (count * voxel_mm3) if count else None
        for area, count in zip(areas, (voxels, true_voxels), strict=True)
    ]
    return ClassScores(
        dice=2.0 * int(np.count_nonzero(prediction & truth)) / (voxels + true_voxels)
        if present
        else None,
        hd95_mm=hd95_mm,
        nsd=nsd,
        volume_ml=voxels * voxel_mm3 / 1000.0,
        truth_volume_ml=true_voxels * voxel_mm3 / 1000.0,
        volume_error_ml=(voxels - true_voxels) * voxel_mm3 / 1000.0 if present else None,
        components=parts.predicted,
        truth_components=parts.present,
        found=parts.found,
        false_components=parts.false,
        surface_volume_ratio=ratios[0],
        truth_surface_volume_ratio=ratios[1],
    )
