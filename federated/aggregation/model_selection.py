"""Which global model is best, by what the sites scored on the model they received."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SCORE = "dice"  # the key of a site's scores by which global models are compared


@dataclasses.dataclass(frozen=True)
class Selection:
    """The best global model. `mean` and `worst` hold, per model number, the weighted mean and the
    lowest site score.
    """

    best: int
    mean: Mapping[int, float]
    worst: Mapping[int, float]
    sites: tuple[str, ...]  # on whose scores the models are compared
    best_worst_site: int = 0  # the model whose worst site is best off


def select(
    scores: Mapping[int, Mapping[str, float]], num_examples: Mapping[str, int]
) -> Selection | None:
    """Returns the model with the highest weighted mean score, or None where nothing was scored.

    Models are comparable only on the same sites: those that scored the newest scored model. A model
    one of them did not score is no candidate. A tie goes to the later model, which has seen more
    data.

    Args:
      scores: model number (0 = initial) to site to score, higher is better.
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
    best, fairest = (
        max(by, key=lambda number, by=by: (by[number], number)) for by in (mean, worst)
    )
    return Selection(best, mean, worst, sites, fairest)


def has_plateaued(
    mean: Mapping[int, float], *, patience: int, min_improvement: float = 0.0
) -> bool:
    """Returns whether none of the last `patience` models is better, by more than `min_improvement`,
    than the best one before them.

    Args:
      mean: model number to mean score.
      patience: 0 means for ever.
    """
    numbers = sorted(mean)
    if not patience or len(numbers) <= patience:
        return False
    earlier, recent = numbers[:-patience], numbers[-patience:]
    return (
        max(mean[number] for number in recent)
        <= max(mean[number] for number in earlier) + min_improvement
    )
