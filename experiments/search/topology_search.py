"""The coarse stage: topologies in two arms, evolution and random, with equally many trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from c2fnas.search import clustering, distance, evolution
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.topology_space import TopologySpace
from experiments.results.search_table import EVOLUTION, RANDOM
from experiments.search.search_state import SearchState, random_arm_seed

STAGE = "topology"


def deepest_level(sizes: Sequence[int]) -> int:
    """Returns the deepest level at which every size is still a multiple of 2**level voxels."""
    level = 1
    while all(size % 2 ** (level + 1) == 0 for size in sizes):
        level += 1
    return level


def first_state(
    space: TopologySpace,
    settings: EvolutionSettings,
    *,
    seed: int,
    about: Mapping[str, Any],
    random_arm: bool = True,
) -> SearchState:
    """Returns a search with its first candidates.

    Evolution starts with one topology from each cluster; there are as many clusters as candidates
    in its first generation. The random arm draws all of its candidates uniformly.

    Args:
      space: the space of topologies.
      settings: settings of the evolution.
      seed: seed of every choice.
      about: further settings that decide the numbers, as JSON values.
      random_arm: whether to have a random arm.
    Raises:
      ValueError: if the space has fewer topologies than one arm scores.
    """
    genes = list(space.genes())
    if settings.budget > len(genes):
        raise ValueError(
            f"population is {settings.population} and generations {settings.generations}, together "
            f"{settings.budget} topologies; expected at most {len(genes)}, as many as there are up "
            f"to level {space.deepest}"
        )
    groups = clustering.clusters(
        distance.pairwise([space.levels(gene) for gene in genes]), settings.population
    )
    given = [genes[number] for number in clustering.one_of_each(groups, seed)]
    arms = {EVOLUTION: evolution.start(space, settings, seed=seed, given=given)}
    if random_arm:
        arms[RANDOM] = evolution.random_search(space, settings, seed=random_arm_seed(seed))
    chosen = {
        "search": {**dataclasses.asdict(settings), "seed": seed, "random_arm": random_arm},
        "space": dataclasses.asdict(space),
        **about,
    }
    return SearchState(STAGE, chosen, arms)
