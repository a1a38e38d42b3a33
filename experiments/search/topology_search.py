"""The coarse stage: topologies in two arms, evolution and chance, with equally many trainings."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from c2fnas.search import clustering, distance, evolution
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.topology_space import TopologySpace
from experiments.search import search_state
from experiments.search.search_state import EVOLUTION, RANDOM, SearchState
from runkit import randomness

STAGE = "topology"
# gene, name in progress bars -> score, higher is better, and numbers to keep with it
ScoreTopology = Callable[[tuple[int, ...], str], tuple[float, Mapping[str, float]]]


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
    """Returns a search whose first candidates are proposed.

    Evolution begins with one topology of each cluster, as many clusters as its first generation has
    candidates; the random arm draws all of its candidates uniformly.

    Args:
      space: of the topologies.
      settings: of the evolution.
      seed: of every choice.
      about: further settings that decide the numbers, as JSON values.
      random_arm: whether to have one.
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
        other = int.from_bytes(randomness.digest(seed, "random arm")[:4], "big")
        arms[RANDOM] = evolution.random_search(space, settings, seed=other)
    chosen = {
        "search": {**dataclasses.asdict(settings), "seed": seed, "random_arm": random_arm},
        "space": dataclasses.asdict(space),
        **about,
    }
    return SearchState(STAGE, chosen, arms)


def run(
    space: TopologySpace,
    state: SearchState,
    folder: pathlib.Path,
    score: ScoreTopology,
    *,
    after_each: Callable[[SearchState], None] = lambda state: None,
    most_trainings: int = 0,
) -> SearchState:
    """Scores what is left of a search and returns it; the state file is written after each score.

    A topology that both arms propose is trained once and counts in both.

    Args:
      space: of the topologies.
      state: see `search_state.resumed`.
      folder: for the state file.
      score: trains and scores a topology.
      after_each: called after each score, e.g. to write a page.
      most_trainings: number of trainings after which to return all the same; 0 for no limit.
    """
    search_state.write(folder, state)
    trained = 0
    while (turn := state.next_candidate()) is not None:
        arm, candidate = turn
        known = state.known(candidate.gene)
        if known is not None and known.score is not None:
            found, details = known.score, {**known.details, "seconds": 0.0}
        elif most_trainings and trained == most_trainings:
            break
        else:
            trained += 1
            levels = "".join(map(str, space.levels(candidate.gene)))
            label = f"{arm} {state.scored + 1}/{state.budget}, levels {levels}"
            found, measured = score(candidate.gene, label)
            details = dict(measured)
        state = state.with_arm(
            arm, evolution.record(state.arms[arm], space, candidate.gene, found, details)
        )
        search_state.write(folder, state)
        after_each(state)
    return state
