"""The healthy gate in rows: fitted to the scores of healthy sites' validation cases, applied to
every site's test rows.

A site whose patients have no tumour scores each model on its validation cases too; these rows carry
`score_tumour`, and no other site's do. They are all that the gate needs: its threshold is a number
of theirs (see c2fnas.scores.healthy_gate), and what it does to a test case follows from the case's
row, since it leaves the pancreas as it is. So no site segments anything twice and no further number
leaves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from c2fnas.scores import healthy_gate
from c2fnas.scores.healthy_gate import HealthyGate
from experiments.results.case_rows import SCORE
from experiments.results.shared_choice import GRID

SUFFIX = "_gated"
# The distance of a missed tumour is the diagonal of the volume, which a row does not hold: gated
# rows have no distance of the tumour.
_UNKNOWN = "hd95_mm_tumour"
_NUMBERS = ("threshold", "patients", "share")  # of a gate, as columns gate_<number>


def resolve(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows without those of validation cases, and for every model with a gate its test rows
    again as `<model>_gated`.
    """
    rows = [dict(row) for row in rows]
    gates = fit(rows)
    test = [row for row in rows if row["grid"] != GRID]
    return test + [
        gated(row, gates[row["model"]])
        for row in test
        if row["model"] in gates and row.get(SCORE) is not None
    ]


def fit(rows: Sequence[Mapping[str, Any]]) -> dict[str, HealthyGate]:
    """Returns model -> its gate, by all healthy sites' validation rows together; a model with too
    few has none.

    A row that marks a tumour in the truth is not a healthy patient's and does not count, whatever
    its site said.
    """
    scores: dict[str, dict[tuple[str, int], float]] = {}
    for row in rows:
        if row["grid"] == GRID and row.get(SCORE) is not None and row["truth_ml_tumour"] == 0:
            scores.setdefault(row["model"], {})[row["site"], row["case"]] = float(row[SCORE])
    gates = {model: healthy_gate.fit(list(own.values())) for model, own in scores.items()}
    return {model: gate for model, gate in gates.items() if gate is not None}


def gated(row: Mapping[str, Any], gate: HealthyGate) -> dict[str, Any]:
    """Returns the row of the case with the gate: as it was where the score passes, else that of a
    mask without tumour.
    """
    found = {column: value for column, value in row.items() if column != _UNKNOWN}
    if gate.stops(row[SCORE]):
        missed = 0.0 if row["truth_ml_tumour"] > 0 else None
        error = -row["truth_ml_tumour"] if row["truth_ml_tumour"] > 0 else None
        without = {
            "dice_tumour": missed,
            "nsd_tumour": missed,
            "volume_ml_tumour": 0.0,
            "volume_error_ml_tumour": error,
            "components_tumour": 0.0,
            "found_tumour": 0.0,
            "false_components_tumour": 0.0,
            "surface_volume_ratio_tumour": None,
            SCORE: 0.0,  # as every mask without a tumour
        }
        found |= {column: value for column, value in without.items() if column in found}
    return {
        **found,
        "model": row["model"] + SUFFIX,
        **{f"gate_{name}": getattr(gate, name) for name in _NUMBERS},
    }


def gates_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, HealthyGate]:
    """Returns model -> gate from rows that `resolve` has made."""
    return {
        row["model"].removesuffix(SUFFIX): HealthyGate(
            **{name: row[f"gate_{name}"] for name in _NUMBERS}
        )
        for row in rows
        if row["model"].endswith(SUFFIX) and "gate_threshold" in row
    }
