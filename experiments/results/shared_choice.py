"""Chooses a site's best local model by the validation cases of all sites.

A site whose labels lack a class cannot see on its own validation cases whether a model has
unlearned that class. It therefore lends some of its local models, the candidates. Every site scores
them on its validation and test cases, and this module makes the choice from the rows: models are
exchanged, scans are not. The chosen candidate's test rows become those of
`<site>_FL_local_shared`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.results.case_rows import CaseRow, latest, value
from experiments.results.model_names import candidate_of
from runkit.classes import FOREGROUND

GRID = "validation"  # the `grid` of validation rows, which are scored on the training grid
_SUFFIX = "_shared"


def candidate_rounds(num_rounds: int, validation_every: int, candidates: int) -> list[int]:
    """Returns the rounds whose local models are lent.

    These are at most `candidates` rounds with a validation, evenly spaced up to the last one.
    """
    validated = [
        r for r in range(1, num_rounds + 1) if r % validation_every == 0 or r == num_rounds
    ]
    stride = max(1, -(-len(validated) // max(1, candidates)))
    return validated[::-1][::stride][::-1] if candidates else []


def resolve(rows: Iterable[CaseRow]) -> list[CaseRow]:
    """Returns the rows with each site's chosen candidate as `…_shared`, without other candidates.

    The candidate with the highest score is chosen, the later of two equal ones. The score is the
    mean over the classes of the mean Dice over all sites' validation cases that have the class in
    truth or prediction. Rows of validation cases are kept, because `gated_rows` needs some of them.
    """
    rows = list(rows)
    chosen = choose(rows)
    result: list[CaseRow] = []
    for row in rows:
        candidate = candidate_of(row["model"])
        if candidate is not None and chosen.get(candidate[0]) != candidate[1]:
            continue
        if candidate is None:
            result.append(row)
        else:
            result.append({**row, "model": candidate[0] + _SUFFIX, "round": candidate[1]})
    return result


def choose(rows: Sequence[CaseRow]) -> dict[str, int]:
    """Returns model -> round of the chosen candidate, for models with validated candidates.

    If a site has left out cases of a candidate, that candidate is not chosen: without the cases
    that have a tumour, a model that has lost it would look best.
    """
    scores: dict[str, dict[int, tuple[int, float]]] = {}
    validated = latest(rows, GRID)
    for name in {model for model, _, _ in validated}:
        candidate = candidate_of(name)
        own = [row for (model, _, _), row in validated.items() if model == name]
        means = [
            _mean([n for n in (value(row, f"dice_{of}") for row in own) if n is not None])
            for of in FOREGROUND.values()
        ]
        known = [mean for mean in means if mean is not None]
        if candidate is not None and known:
            mean = sum(known) / len(known)
            scores.setdefault(candidate[0], {})[candidate[1]] = (len(own), mean)
    return {
        model: max((*score, number) for number, score in by_round.items())[-1]
        for model, by_round in scores.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
