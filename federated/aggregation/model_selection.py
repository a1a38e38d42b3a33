"""Selects the best global model by the scores that sites gave the models they received."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SCORE = "dice"  # the score by which global models are compared


@dataclasses.dataclass(frozen=True)
class Selection:
    """The best global model, and the scores on which the choice is based."""

    best: int
    mean: Mapping[int, float]  # model number -> the weighted mean of the sites' scores
    worst: Mapping[int, float]  # model number -> the lowest score of a site
    sites: tuple[str, ...]  # the sites whose scores are compared
    best_worst_site: int = 0  # the model with the highest `worst`


def select(
    scores: Mapping[int, Mapping[str, float]], num_examples: Mapping[str, int]
) -> Selection | None:
    """Returns the model with the highest weighted mean score, or None if nothing was scored.

    Models are compared on the same sites: those that scored the newest scored model. A model that
    one of these sites did not score is left out. A tie goes to the later model, which was trained
    on more data.

    Args:
      scores: model number (0 = initial) -> site -> score; higher is better.
      num_examples: weight of each site.
    """
    scored = {number: by_site for number, by_site in scores.items() if by_site}
    if not scored:
        return None
    sites = tuple(sorted(scored[max(scored)]))
    candidates = {
        number: by_site
        for number, by_site in scored.items()
        if all(site in by_site for site in sites)
    }
    total = sum(num_examples[site] for site in sites)
    mean = {
        number: sum(num_examples[s] * by_site[s] for s in sites) / total
        for number, by_site in sorted(candidates.items())
    }
    worst = {
        number: min(by_site[s] for s in sites) for number, by_site in sorted(candidates.items())
    }
    return Selection(_highest(mean), mean, worst, sites, _highest(worst))


def _highest(values: Mapping[int, float]) -> int:
    """Returns the number with the highest value; in a tie, the latest."""
    return max(values, key=lambda number: (values[number], number))


def has_plateaued(
    mean: Mapping[int, float], *, patience: int, min_improvement: float = 0.0
) -> bool:
    """Returns whether the last `patience` models brought no improvement.

    That is, none of them is better than the best one before them by more than `min_improvement`.

    Args:
      mean: model number -> mean score.
      patience: number of models; with 0 there is never a plateau.
    """
    numbers = sorted(mean)
    if not patience or len(numbers) <= patience:
        return False
    earlier, recent = numbers[:-patience], numbers[-patience:]
    return (
        max(mean[number] for number in recent)
        <= max(mean[number] for number in earlier) + min_improvement
    )
