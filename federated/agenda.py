"""What a site is to do next, as a pure function of what has been done: the order of a whole run in one place."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from federated.rounds import Round

Kind = Literal["wait", "train", "score", "publish", "evaluate", "finished"]
LAST_GLOBAL = "FL_global"  # the last round's aggregate, unselected
BEST_GLOBAL = "FL_best_global"  # the global model the sites scored best


def global_name(number: int) -> str:
    """Returns the name under which global model `number` is pulled; 0 is the initial model."""
    return f"round_{number:03d}"


def global_number(name: str) -> int | None:
    """Returns the number of the global model of that name, None where it is not the name of a numbered one."""
    match = re.fullmatch(r"round_(\d{3,9})", name)
    return int(match[1]) if match else None


def is_global(name: str) -> bool:
    """Returns whether a name is reserved for global models."""
    return name in (LAST_GLOBAL, BEST_GLOBAL) or re.fullmatch(r"round_\d{3,}", name) is not None


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to do. `train`: pull `model`, score it, train, push as `round`. `score`: pull and score `model` only.

    `publish`: send the local models. `evaluate`: pull each of `models`, score it on the own test cases, submit the rows.
    """

    kind: Kind
    round: int = 0
    model: str = ""
    models: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
      open_round: None after the last aggregation.
      num_rounds: fewer than planned where the run was told to end early.
      paused: the operator holds the run; who comes waits.
      closing: the open round is over and being aggregated.
      participants: sites with an update in any round.
      scored: sites that scored the last global model.
      declared: sites that published all their models, or declared none.
      models: what every site evaluates; empty until it is fixed.
      reported: sites whose rows are in.
    """

    open_round: Round | None
    num_rounds: int
    paused: bool = False
    closing: bool = False
    participants: frozenset[str] = frozenset()
    scored: frozenset[str] = frozenset()
    declared: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()
    reported: frozenset[str] = frozenset()
    finished: bool = False


def next_task(progress: Progress, site: str) -> Task:
    """Returns what `site` is to do now. Asking again changes nothing, so a lost reply or a restart does no harm."""
    if progress.paused and not progress.finished:
        return Task("wait")
    if progress.open_round is not None:
        number = progress.open_round.number
        if progress.closing or site in progress.open_round.received:
            return Task("wait")
        return Task("train", round=number, model=global_name(number - 1))
    if progress.finished or site in progress.reported or site not in progress.participants:
        return Task("finished")
    if progress.models:
        return Task("evaluate", models=progress.models)
    if site not in progress.scored:
        return Task("score", round=progress.num_rounds, model=global_name(progress.num_rounds))
    if site not in progress.declared:
        return Task("publish")
    return Task("wait")
