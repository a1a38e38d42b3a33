"""Scores the remaining candidates of a search, in both arms.

Any number of processes can score one search: each claims a candidate, scores it and records the
score. Which process scores what does not change the result.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from c2fnas.search import evolution
from c2fnas.search.gene_space import Gene, GeneSpace
from experiments.search import search_state
from experiments.search.search_state import SearchState
from experiments.search.shared_work import Claim, SharedWork

# gene, name in progress bars -> score (higher is better), and numbers to keep with it
Score = Callable[[Gene, str], tuple[float, Mapping[str, float]]]


_LOOK_AGAIN_S = 1.0  # when other processes score all candidates of a generation


class _Turn(NamedTuple):
    """What to do next.

    Attributes:
      state: the newest state of the search.
      arm, gene: the candidate to score; "" if none is free.
      claim: None unless there is a candidate to score.
      copied: whether a score of the other arm was recorded.
      ended: whether no candidate waits for a score, or the limit of scores is reached.
    """

    state: SearchState
    arm: str = ""
    gene: Gene = ()
    claim: Claim | None = None
    copied: bool = False
    ended: bool = False


def run(
    space: GeneSpace,
    state: SearchState,
    folder: pathlib.Path,
    score: Score,
    *,
    after_each: Callable[[SearchState], None] = lambda state: None,
    most_scores: int = 0,
    sleep: Callable[[float], None] = time.sleep,
) -> SearchState:
    """Scores the remaining candidates and returns the search; writes its state after each score.

    A gene that both arms propose is scored once and counts in both. At the end of a generation the
    function waits for other processes that score the same search.

    Args:
      space: the space of genes.
      state: see `search_state.resumed`.
      folder: folder for the state file.
      score: scores a gene.
      after_each: called after each score, e.g. to write a page.
      most_scores: number of scores after which to return early; 0 for no limit.
      sleep: waits a number of seconds; a parameter for tests.
    """
    shared, done = SharedWork(folder), 0
    with shared.alone():
        if search_state.read(folder) is None:
            search_state.write(folder, state)
    while True:
        with shared.alone():
            turn = _next(space, folder, shared, may_score=not most_scores or done < most_scores)
        if turn.ended:
            return turn.state
        if turn.claim is not None:
            with turn.claim:
                done += 1
                number = f"{turn.state.scored + 1}/{turn.state.budget}"
                label = f"{turn.arm} {number}, {space.describe(turn.gene)}"
                found, details = score(turn.gene, label)
                with shared.alone():
                    state = _recorded(space, folder, turn.arm, turn.gene, found, details)
                    turn.claim.done()
            after_each(state)
        elif turn.copied:
            after_each(turn.state)
        else:
            sleep(_LOOK_AGAIN_S)


def _next(space: GeneSpace, folder: pathlib.Path, shared: SharedWork, *, may_score: bool) -> _Turn:
    """Returns what to do next; records the score of a candidate that the other arm has scored."""
    state = _held(folder)
    waits = False
    for arm, candidate in state.waiting():
        known = state.known(candidate.gene)
        if known is not None and known.score is not None:
            details = {**known.details, "seconds": 0.0}
            state = _recorded(space, folder, arm, candidate.gene, known.score, details)
            return _Turn(state, copied=True)
        if not may_score:
            break
        waits = True
        if (claim := shared.claim("-".join(map(str, candidate.gene)))) is not None:
            return _Turn(state, arm, candidate.gene, claim)
    return _Turn(state, ended=not waits)


def _recorded(
    space: GeneSpace,
    folder: pathlib.Path,
    arm: str,
    gene: Gene,
    score: float,
    details: Mapping[str, float],
) -> SearchState:
    """Records a score in the state file and returns the state."""
    state = _held(folder)
    if any(one.gene == gene and one.score is None for one in state.arms[arm].candidates):
        state = state.with_arm(
            arm, evolution.record(state.arms[arm], space, gene, score, dict(details))
        )
        search_state.write(folder, state)
    return state  # unchanged if locks do not work on this drive and another process was faster


def _held(folder: pathlib.Path) -> SearchState:
    state = search_state.read(folder)
    if state is None:
        raise ValueError(f"{folder / search_state.FILE_NAME}: was removed while the search ran")
    return state
