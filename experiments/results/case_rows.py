"""The per-case row: its type, and the columns that hold a case's scores.

All column names are composed of the words that federated.security.report_filter allows.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypedDict, cast

import numpy as np

from c2fnas.scores import case_scores
from c2fnas.scores.case_scores import ClassScores
from experiments.results.report_words import REPORTS
from preprocessing import geometry, nifti, rules
from preprocessing.volume import Volume
from runkit.classes import FOREGROUND

# Measure -> its unit, for reports. A row has a column <measure>_<class> for each class.
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
# Continuity and smoothness, and how much of the tumour is found.
_TUMOUR_ONLY = (
    "components",
    "truth_components",
    "found",
    "false_components",
    "surface_volume_ratio",
    "truth_surface_volume_ratio",
)
# Measures that do not compare the mask with a label; a class that nobody has drawn has only these.
_OF_THE_MASK = ("volume_ml", "components", "surface_volume_ratio")
SCORE = "score_tumour"  # column of the patient's score, see c2fnas.scores.tumour_score


class _Scored(TypedDict):
    model: str
    site: str
    case: int  # running number in the site's cohort
    grid: str  # "training", "native" or, for a validation case, "validation"
    dice_pancreas: float | None  # None: the class is in neither truth nor prediction
    dice_tumour: float | None
    volume_ml_pancreas: float
    volume_ml_tumour: float
    truth_ml_pancreas: float | None  # None: patients may have the class, but nobody has drawn it
    truth_ml_tumour: float | None


# The columns that every row has.
REQUIRED = tuple(_Scored.__annotations__)
# Of these, those that cannot be None.
NEVER_EMPTY = tuple(name for name, may_be_empty in REPORTS.required.items() if not may_be_empty)


class CaseRow(_Scored, total=False):
    """What a site reports for one model on one case. Earlier releases lack the later columns."""

    hd95_mm_pancreas: float | None
    hd95_mm_tumour: float | None
    nsd_pancreas: float | None
    nsd_tumour: float | None
    volume_error_ml_pancreas: float | None
    volume_error_ml_tumour: float | None
    components_tumour: float | None
    truth_components_tumour: float | None
    found_tumour: float | None
    false_components_tumour: float | None
    surface_volume_ratio_tumour: float | None
    truth_surface_volume_ratio_tumour: float | None
    score_tumour: float | None
    round: int  # of the chosen candidate, see `shared_choice`
    gate_threshold: float  # of the gate that was applied, see `gated_rows`
    gate_patients: int
    gate_share: float


def latest(rows: Iterable[CaseRow], grid: str) -> dict[tuple[str, str, int], CaseRow]:
    """Returns (model, site, case) -> the last row on a grid; an interrupted site may send two."""
    return {(row["model"], row["site"], row["case"]): row for row in rows if row["grid"] == grid}


def value(row: CaseRow, column: str) -> float | None:
    """Returns a number of a row; None if the row lacks the column or has no score in it."""
    number = cast("Mapping[str, Any]", row).get(column)
    return None if number is None else float(number)


def has_tumour(row: CaseRow) -> bool | None:
    """Returns whether the truth contains a voxel of tumour; None if nobody has drawn tumours.

    A site may round its numbers (--report_digits), and a small volume then becomes 0; a number of
    parts does not.
    """
    volume_ml = value(row, "truth_ml_tumour")
    if volume_ml is None:
        return None
    return volume_ml > 0 or (value(row, "truth_components_tumour") or 0.0) > 0


def marks_tumour(row: CaseRow) -> bool:
    """Returns whether the mask contains a voxel of tumour, as `has_tumour`."""
    return row["volume_ml_tumour"] > 0 or (value(row, "components_tumour") or 0.0) > 0


def columns(
    scores: Mapping[int, ClassScores], *, undrawn: Collection[str] = ()
) -> dict[str, float | None]:
    """Returns the columns of a case, e.g. `hd95_mm_pancreas`, from class -> its scores.

    A value is None if the class has no score (see c2fnas.scores.metrics).

    Args:
      undrawn: names of classes that patients may have although the labels never show them. Whether
        a mask of such a class is right is unknown, so all columns that compare it with the label
        are None.
    """
    found: dict[str, float | None] = {}
    for class_, own in scores.items():
        name = FOREGROUND[class_]
        values = {
            "dice": own.dice,
            "hd95_mm": own.hd95_mm,
            "nsd": own.nsd,
            "volume_error_ml": own.volume_error_ml,
            "volume_ml": own.volume_ml,
            "truth_ml": own.truth_volume_ml,
            "components": own.components,
            "truth_components": own.truth_components,
            "found": own.found,
            "false_components": own.false_components,
            "surface_volume_ratio": own.surface_volume_ratio,
            "truth_surface_volume_ratio": own.truth_surface_volume_ratio,
        }
        found |= {
            f"{measure}_{name}": value if name not in undrawn or measure in _OF_THE_MASK else None
            for measure, value in values.items()
            if name == "tumour" or measure not in _TUMOUR_ONLY
        }
    return found


def of_files(
    prediction: str | os.PathLike | None,
    truth: str | os.PathLike,
    label_values: Mapping[int, int] | None,
    tolerance_mm: float,
    *,
    orientation: str | None = None,
) -> dict[str, float | None]:
    """Returns the columns of all classes for a mask and a label map.

    Both are NIfTI files on the same grid, in any order of axes.

    Args:
      prediction: the mask; None stands for an empty mask.
      truth: the label map.
      label_values: value in the label map -> class; None if the values are the classes.
      tolerance_mm: tolerance of the surface Dice.
      orientation: of files whose header gives none, see preprocessing.nifti.read_ct.
    Raises:
      ValueError: naming the file that cannot be read, or both if their grids differ.
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
    if apart is None or apart > rules.MISPLACED_VOXELS * min(label.spacing_mm):
        found = (
            f"{mask.shape} and {label.shape} voxels"
            if apart is None
            else f"corners {apart:.2g} mm apart"
        )
        raise ValueError(
            f"{prediction} and {truth} have different grids ({found}); resample the mask to the "
            "label's grid"
        )
    scores = case_scores.compare(
        mask.array, label.array, label.spacing_mm, tolerance_mm=tolerance_mm
    )
    return columns(scores)
