"""Applies the healthy gate to rows: fitted at healthy sites, applied to the test rows of all sites.

A site whose patients have no tumour scores each model on its validation cases too. Their rows are
the only validation rows with the column `score_tumour`, and the gate needs nothing else: its
threshold is one of these scores (see c2fnas.scores.healthy_gate). The effect on a test case follows
from the case's row, because the gate leaves the pancreas unchanged. No site therefore has to
segment a case twice, and no further number leaves a site.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from c2fnas.scores import healthy_gate
from c2fnas.scores.healthy_gate import HealthyGate
from experiments.results import case_rows, model_names
from experiments.results.case_rows import SCORE, CaseRow
from experiments.results.shared_choice import GRID

SUFFIX = model_names.GATED
# Gated rows lack this column: for a missed tumour it is the diagonal of the volume, which a row
# does not hold.
_UNKNOWN = "hd95_mm_tumour"


def resolve(rows: Iterable[CaseRow]) -> list[CaseRow]:
    """Returns the rows of test cases, and copies as `<model>_gated` for models with a gate."""
    rows = list(rows)
    gates = fit_gates(rows)
    test = [row for row in rows if row["grid"] != GRID]
    return test + [
        gated(row, gates[row["model"]])
        for row in test
        if row["model"] in gates and row.get(SCORE) is not None
    ]


def fit_gates(rows: Sequence[CaseRow]) -> dict[str, HealthyGate]:
    """Returns model -> gate, fitted to the validation rows of all healthy sites together.

    A model with too few such rows has no gate. Rows with a tumour in the truth never count,
    whatever their site declared.
    """
    scores: dict[str, dict[tuple[str, int], float]] = {}
    for row in rows:
        score = row.get("score_tumour")
        if row["grid"] == GRID and score is not None and case_rows.has_tumour(row) is False:
            scores.setdefault(row["model"], {})[row["site"], row["case"]] = float(score)
    gates = {model: healthy_gate.fit(list(own.values())) for model, own in scores.items()}
    return {model: gate for model, gate in gates.items() if gate is not None}


def gated(row: CaseRow, gate: HealthyGate) -> CaseRow:
    """Returns the row with the gate: the same numbers, or those of a mask without a tumour."""
    found = {column: value for column, value in row.items() if column != _UNKNOWN}
    score = row.get("score_tumour")
    if score is not None and gate.stops(score):
        ill, truth_ml = case_rows.has_tumour(row), case_rows.value(row, "truth_ml_tumour")
        missed = 0.0 if ill else None
        error = -truth_ml if ill and truth_ml is not None else None
        none_counted = None if ill is None else 0.0
        without: dict[str, Any] = {
            "dice_tumour": missed,
            "nsd_tumour": missed,
            "volume_ml_tumour": 0.0,
            "volume_error_ml_tumour": error,
            "components_tumour": 0.0,
            "found_tumour": none_counted,
            "false_components_tumour": none_counted,
            "surface_volume_ratio_tumour": None,
            SCORE: 0.0,  # like every mask without a tumour
        }
        found |= {column: value for column, value in without.items() if column in found}
    about = {
        "model": row["model"] + SUFFIX,
        "gate_threshold": gate.threshold,
        "gate_patients": gate.patients,
        "gate_share": gate.share,
    }
    return cast("CaseRow", {**found, **about})


def gates_of(rows: Iterable[CaseRow]) -> dict[str, HealthyGate]:
    """Returns model -> gate, read from the rows that `resolve` returned."""
    return {
        row["model"].removesuffix(SUFFIX): HealthyGate(
            threshold=row["gate_threshold"],
            patients=row["gate_patients"],
            share=row["gate_share"],
        )
        for row in rows
        if row["model"].endswith(SUFFIX) and "gate_threshold" in row
    }
