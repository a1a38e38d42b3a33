"""The scored candidates of a search: their Pareto front, best so far, generations and costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

EVOLUTION, RANDOM = "evolution", "random"  # the arms of a search


@dataclasses.dataclass(frozen=True)
class ScoredCandidate:
    """One scored candidate.

    Attributes:
      arm: EVOLUTION or RANDOM.
      number: place in its arm, from 1.
      generation: counted from 0; the random arm has only one.
      origin: how it was proposed: given, random, mutation or crossover.
      name: name of its genotype.
      score: mean Dice over the validation cases, from 0 to 1.
      macs: multiply-accumulates for one patch.
      seconds: time of its training and scoring; 0 if another arm had trained it.
      by_site: site -> mean score of its validation cases.
    """

    arm: str
    number: int
    generation: int
    origin: str
    name: str
    score: float
    macs: float
    seconds: float
    by_site: Mapping[str, float] = dataclasses.field(default_factory=dict)


def pareto_front(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """Returns the candidates that no other beats in score without needing more MACs.

    They are sorted by MACs, so that scores rise.
    """
    front: list[ScoredCandidate] = []
    for one in sorted(candidates, key=lambda c: (c.macs, -c.score)):
        if not front or one.score > front[-1].score:
            front.append(one)
    return front


def best_so_far(candidates: Sequence[ScoredCandidate]) -> list[float]:
    """Returns the highest score after each candidate of one arm, in their order."""
    found: list[float] = []
    for one in sorted(candidates, key=lambda c: c.number):
        found.append(max([one.score, *found[-1:]]))
    return found


def by_generation(
    candidates: Sequence[ScoredCandidate],
) -> dict[int, list[ScoredCandidate]]:
    """Returns generation -> its candidates, in order."""
    found: dict[int, list[ScoredCandidate]] = {}
    for one in sorted(candidates, key=lambda c: c.number):
        found.setdefault(one.generation, []).append(one)
    return found


def of_arm(candidates: Sequence[ScoredCandidate], arm: str) -> list[ScoredCandidate]:
    """Returns the candidates of one arm in the order in which they were proposed."""
    return sorted((c for c in candidates if c.arm == arm), key=lambda c: c.number)


def arms(candidates: Sequence[ScoredCandidate]) -> list[str]:
    """Returns the names of the arms, evolution first."""
    return sorted({one.arm for one in candidates}, key=lambda name: (name != EVOLUTION, name))


def winner(candidates: Sequence[ScoredCandidate], arm: str) -> ScoredCandidate | None:
    """Returns the best candidate of an arm, the first of equal ones; None if none is scored."""
    own = of_arm(candidates, arm)
    return max(own, key=lambda c: c.score, default=None)
