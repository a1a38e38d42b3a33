"""What of a case's scores goes into a per-case row: column names, all made of the words that federated.privacy lets out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from c2fnas.case_scores import ClassScores

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
    "surface_volume_ratio": "1/mm",
    "truth_surface_volume_ratio": "1/mm",
}
_TUMOUR_ONLY = ("components", "truth_components", "surface_volume_ratio", "truth_surface_volume_ratio")  # its continuity and smoothness


def columns(scores: ClassScores, name: str) -> dict[str, float | None]:
    """Returns a class's columns of a row, e.g. `hd95_mm_pancreas`; None where there is no score (rule in c2fnas.metrics)."""
    values = {
        "dice": scores.dice,
        "hd95_mm": scores.hd95_mm,
        "nsd": scores.nsd,
        "volume_error_ml": scores.volume_error_ml,
        "volume_ml": scores.volume_ml,
        "truth_ml": scores.truth_volume_ml,
        "components": scores.components,
        "truth_components": scores.truth_components,
        "surface_volume_ratio": scores.surface_volume_ratio,
        "truth_surface_volume_ratio": scores.truth_surface_volume_ratio,
    }
    return {f"{measure}_{name}": value for measure, value in values.items() if name == "tumour" or measure not in _TUMOUR_ONLY}
