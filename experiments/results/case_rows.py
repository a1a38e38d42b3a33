"""What of a case's scores goes into a per-case row: column names, all made of the words that
federated.security.report_filter lets out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from c2fnas.scores import case_scores
from c2fnas.scores.case_scores import ClassScores
from preprocessing import geometry, nifti
from preprocessing.volume import Volume
from runkit.classes import FOREGROUND

# measure in a row -> its unit, for reports; each class has a column <measure>_<class>
UNITS = {
    "dice": "",
    "hd95_mm": "mm",
    "nsd": "",
    "volume_error_ml": "ml",
    "volume_ml": "ml",
    "truth_ml": "ml",
    "components": "",
    "truth_components": "",
    "found": "",
    "false_components": "",
    "score": "",
    "surface_volume_ratio": "1/mm",
    "truth_surface_volume_ratio": "1/mm",
}
# its continuity and smoothness, and what a patient's "has a tumour" rests on
_TUMOUR_ONLY = (
    "components",
    "truth_components",
    "found",
    "false_components",
    "surface_volume_ratio",
    "truth_surface_volume_ratio",
)
SCORE = "score_tumour"  # of a row: the patient's score, see c2fnas.scores.tumour_score


def columns(scores: ClassScores, name: str) -> dict[str, float | None]:
    """Returns a class's columns of a row, e.g. `hd95_mm_pancreas`; None where there is no score
    (rule in c2fnas.scores.metrics).
    """
    values = {
        "dice": scores.dice,
        "hd95_mm": scores.hd95_mm,
        "nsd": scores.nsd,
        "volume_error_ml": scores.volume_error_ml,
        "volume_ml": scores.volume_ml,
        "truth_ml": scores.truth_volume_ml,
        "components": scores.components,
        "truth_components": scores.truth_components,
        "found": scores.found,
        "false_components": scores.false_components,
        "surface_volume_ratio": scores.surface_volume_ratio,
        "truth_surface_volume_ratio": scores.truth_surface_volume_ratio,
    }
    return {
        f"{measure}_{name}": value
        for measure, value in values.items()
        if name == "tumour" or measure not in _TUMOUR_ONLY
    }


def of_files(
    prediction: str | os.PathLike | None,
    truth: str | os.PathLike,
    label_values: Mapping[int, int] | None,
    tolerance_mm: float,
    *,
    orientation: str | None = None,
) -> dict[str, float | None]:
    """Returns the columns of both classes for a mask and a label map, NIfTI files on one grid in
    whatever axis orders.

    Args:
      prediction: the mask; None for one that is missing, which counts as a mask of nothing.
      orientation: of files whose header gives none, see preprocessing.nifti.read_ct.
    Raises:
      ValueError: naming the file that cannot be read, or both where they do not lie on one grid.
    """
    label = nifti.read_labels(truth, label_values, orientation=orientation)
    if prediction is None:
        mask = Volume(np.zeros_like(label.array), label.affine)
    else:
        mask = geometry.at_place_of(nifti.read_labels(prediction, orientation=orientation), label)
    mask, label = geometry.to_ras(mask), geometry.to_ras(label)
    apart = (
        geometry.corner_displacement_mm(mask.grid, label.grid)
        if mask.shape == label.shape
        else None
    )
    if apart is None or apart > 0.25 * min(label.spacing_mm):
        found = (
            f"{mask.shape} and {label.shape} voxels"
            if apart is None
            else f"corners {apart:.2g} mm apart"
        )
        raise ValueError(
            f"{prediction} and {truth} are two grids ({found}); bring the mask back to the label's grid"
        )
    scores = case_scores.compare(
        mask.array, label.array, label.spacing_mm, tolerance_mm=tolerance_mm
    )
    return {
        column: value
        for class_, one in scores.items()
        for column, value in columns(one, FOREGROUND[class_]).items()
    }
