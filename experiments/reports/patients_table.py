"""Measures of patients in words, for the pages of runs and studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.reports import cells
from runkit import markdown_tables

HEADINGS = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "auc": "AUC",
    "tumours_found": "Tumours found",
    "false_alarms": "False alarms per healthy patient",
}
TEXT = """\
Can the model tell who has a tumour? A patient is classified as having one if the mask contains a \
voxel of tumour. The score behind the AUC is the network's certainty of its most certain \
millilitre of tumour (mean log-odds; 0 if none is marked). A tumour is found if the mask touches \
it; a false alarm is a connected part of the mask's tumour that touches no tumour. Patients of a \
site that declares tumours to be unlabelled are not counted: nobody knows which of them have one. \
Brackets hold 95 % intervals over patients: exact for shares, Newcombe's for the AUC. They do not \
cover the variation between trainings. If one site has all the tumours and another all the \
healthy patients, these numbers also measure the difference between the sites. Rows whose names \
end in `_gated` are of the same models with the healthy gate: a threshold on the score, fitted to \
the validation cases of healthy sites (docs/inference.md)."""


def table(measures: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the measures of `patients.of_runs` as headings and rows, a dash for missing ones."""
    return ["Model", *HEADINGS.values()], [
        [name, *(cell(own.get(key), key) for key in HEADINGS)] for name, own in measures.items()
    ]


def markdown(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the measures as Markdown, with their definitions."""
    return "\n".join([TEXT, "", *markdown_tables.lines(*table(measures))])


def cell(value: Mapping[str, Any] | None, measure: str) -> str:
    """Returns a number with its count and interval, e.g. "6 of 7, 86 % [42, 100]"."""
    if value is None:
        return cells.NOTHING
    if measure in ("auc", "false_alarms"):
        # If all patients have the same number of false alarms, there is no upper limit for others.
        return f"{cells.with_interval(value, 2)}, n = {value['count']}"
    count = value["estimate"] * value["count"]
    share, low, high = (100 * value[key] for key in ("estimate", "low", "high"))
    return f"{round(count, 1):g} of {value['count']}, {share:.0f} % [{low:.0f}, {high:.0f}]"
