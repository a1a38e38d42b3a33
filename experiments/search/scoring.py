"""Scores the remaining candidates of a search, one by one, in both arms."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

from c2fnas.search import evolution
from c2fnas.search.gene_space import Gene, GeneSpace
from experiments.search import search_state
from experiments.search.search_state import SearchState

# gene, name in progress bars -> score (higher is better), and numbers to keep with it
Score = Callable[[Gene, str], tuple[float, Mapping[str, float]]]


def run(
    space: GeneSpace,
    state: SearchState,
    folder: pathlib.Path,
    score: Score,
    *,
    words: Callable[[Gene], str],
    after_each: Callable[[SearchState], None] = lambda state: None,
    most_scores: int = 0,
) -> SearchState:
    """Scores the remaining candidates and returns the search; writes its state after each score.

    A gene that both arms propose is scored once and counts in both.

    Args:
      space: the space of genes.
      state: see `search_state.resumed`.
      folder: folder for the state file.
      score: scores a gene.
      words: describes a gene, for progress bars.
      after_each: called after each score, e.g. to write a page.
      most_scores: number of scores after which to return early; 0 for no limit.
    """
    search_state.write(folder, state)
    done = 0
    while (turn := state.next_candidate()) is not None:
        arm, candidate = turn
        known = state.known(candidate.gene)
        if known is not None and known.score is not None:
            found, details = known.score, {**known.details, "seconds": 0.0}
        elif most_scores and done == most_scores:
            break
        else:
            done += 1
            label = f"{arm} {state.scored + 1}/{state.budget}, {words(candidate.gene)}"
            found, measured = score(candidate.gene, label)
            details = dict(measured)
        state = state.with_arm(
            arm, evolution.record(state.arms[arm], space, candidate.gene, found, details)
        )
        search_state.write(folder, state)
        after_each(state)
    return state
