"""Which local model of a site is its best by every site's validation: the choice that a site cannot
make alone without all labels.

A site whose labels lack a class cannot see on its own validation cases what its model has unlearned
of it. It lends some of its local models, the candidates; every site scores them on its validation
cases as well as on its test cases, and the rows decide here. Models travel, scans do not. The
chosen candidate's test rows become those of `<site>_FL_local_shared`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runkit.classes import FOREGROUND

GRID = "validation"  # of a row: a validation case on the training grid
_CANDIDATE = re.compile(r"(?P<model>.+_FL_local)_r(?P<round>\d{3,6})")
_SUFFIX = "_shared"


def candidate_name(model: str, round_number: int) -> str:
    """Returns the name under which the local model of a round is lent, e.g. C1_FL_local_r024."""
    return f"{model}_r{round_number:03d}"


def candidate_of(name: str) -> tuple[str, int] | None:
    """Returns (model, round) of a candidate's name, None for any other model's."""
    match = _CANDIDATE.fullmatch(name)
    return None if match is None else (match["model"], int(match["round"]))


def candidate_rounds(num_rounds: int, validation_every: int, candidates: int) -> list[int]:
    """Returns the rounds whose local models are lent: at most `candidates` of those with a
    validation, evenly apart, the last one included.
    """
    validated = [
        r for r in range(1, num_rounds + 1) if r % validation_every == 0 or r == num_rounds
    ]
    stride = max(1, -(-len(validated) // max(1, candidates)))
    return validated[::-1][::stride][::-1] if candidates else []


def resolve(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows without the candidates'; each site's chosen candidate stands as `…_shared`, with
    its `round`. Rows of validation cases stay: the healthy gate is fitted to some of them, see
    `gated_rows`.

    The choice: of every class the mean Dice over all validation cases of all sites that show it or
    are marked with it, then the mean of the classes. Where two are equal, the later round.
    """
    rows = [dict(row) for row in rows]
    chosen = choose(rows)
    result = []
    for row in rows:
        candidate = candidate_of(row["model"])
        if candidate is not None and chosen.get(candidate[0]) != candidate[1]:
            continue
        result.append(
            row
            if candidate is None
            else {**row, "model": candidate[0] + _SUFFIX, "round": candidate[1]}
        )
    return result


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Returns model -> round of its candidate that is chosen; a model without candidates or without
    validation rows is absent.
    """
    scores: dict[str, dict[int, float]] = {}
    latest = {(row["model"], row["site"], row["case"]): row for row in rows if row["grid"] == GRID}
    for name in {model for model, _, _ in latest}:
        candidate = candidate_of(name)
        own = [row for (model, _, _), row in latest.items() if model == name]
        means = [
            _mean([row[f"dice_{of}"] for row in own if row[f"dice_{of}"] is not None])
            for of in FOREGROUND.values()
        ]
        known = [mean for mean in means if mean is not None]
        if candidate is not None and known:
            scores.setdefault(candidate[0], {})[candidate[1]] = sum(known) / len(known)
    return {
        model: max(by_round, key=lambda number, of=by_round: (of[number], number))
        for model, by_round in scores.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
