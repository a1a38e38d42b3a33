"""What was measured of patients, in words: headings, cells and the rules behind them, for the pages
of a run and of a study.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HEADINGS = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "auc": "AUC",
    "tumours_found": "Tumours found",
    "false_alarms": "False alarms per healthy patient",
}
TEXT = """\
Does the model tell who has a tumour? A patient is called to have one where the mask holds a voxel of it. The score behind the AUC is how \
sure the network is of its most certain millilitre of tumour (mean log-odds; 0 where none is marked). A tumour is found where the mask \
touches it; a false alarm is a connected part of the mask's tumour that touches none. In brackets 95 % intervals over patients: exact for \
shares, Newcombe's for the AUC; another training is not in them. Where one site has all the tumours and another all the healthy patients, \
these numbers measure the difference between the sites too. Rows that end in `_gated` are of the same models with the healthy gate, a \
threshold on the score fitted at healthy sites' validation cases (docs/inference.md)."""


def markdown(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what `patients.of_runs` measured as a table, a dash where the rows do not say."""
    lines = [TEXT, "", _line(["Model", *HEADINGS.values()]), "|---|" + "---|" * len(HEADINGS)]
    lines += [
        _line([name, *(cell(own.get(key), key) for key in HEADINGS)])
        for name, own in measures.items()
    ]
    return "\n".join(lines)


def cell(value: Mapping[str, Any] | None, measure: str) -> str:
    """Returns one number with its interval and what it counts, e.g. "6 of 7, 86 % [42, 100]"."""
    if value is None:
        return "–"
    if measure in ("auc", "false_alarms"):
        # patients who are all alike do not say how many more false alarms another patient may have
        low, high = ("–" if end is None else f"{end:.2f}" for end in (value["low"], value["high"]))
        return f"{value['estimate']:.2f} [{low}, {high}], n = {value['count']}"
    count = value["estimate"] * value["count"]
    return f"{round(count, 1):g} of {value['count']}, {100 * value['estimate']:.0f} % [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
