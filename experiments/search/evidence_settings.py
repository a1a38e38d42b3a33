"""How many trainings the evidence on a search has; light, because flags are made of it."""

from __future__ import annotations

import dataclasses

from experiments.results.verdicts.search_claims import LEAST_PATHS, LEAST_SEEDS, NOISE_SEEDS
from runkit import settings
from runkit.settings import at_least, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvidenceSettings:
    """How many trainings the evidence has."""

    alone_steps: int = setting(40_000, "Steps of each training alone.", condition=at_least(1))
    compared_seeds: int = setting(
        5,
        "Trainings, each with its own seed, of every network that is compared; a claim needs "
        f"{LEAST_SEEDS}.",
        condition=at_least(1),
    )
    noise_seeds: int = setting(
        NOISE_SEEDS,
        "Trainings of the published genotype that differ only in their seed.",
        condition=at_least(1),
    )
    rank_paths: int = setting(
        LEAST_PATHS,
        "Paths of the supernet that are also trained alone, for Kendall's tau; 0 for none.",
        condition=at_least(0),
    )
    rank_seeds: int = setting(LEAST_SEEDS, "Trainings of each path.", condition=at_least(1))

    def __post_init__(self) -> None:
        settings.check(self)
