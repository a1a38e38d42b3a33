"""The order of a run: a site's next task as a pure function of what has been done so far."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Literal

from federated import errors
from federated.rounds import sum_phases
from federated.rounds.rounds import Round
from federated.rounds.sum_phases import MAX_EXCHANGES, Exchange
from runkit import printable

Kind = Literal[
    "wait",
    "train",
    "score",
    "publish",
    "evaluate",
    "finished",
    "share",
    "mask",
    "consent",
    "reveal",
]
SUM_KINDS: tuple[Kind, ...] = ("share", "mask", "consent", "reveal")  # with secure aggregation
# A model's name appears in file names, rows and logs at both ends; it can never be a path.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_ROUND = 100_000  # rounds of a run; each adds a few hundred bytes to a site's journal
# Models that a site evaluates in one run; each costs it a pass over its test cases. The largest
# federation of hospitals that trained one segmentation model, FeTS 2022, had 71 sites: with three
# models each and the two global ones that would be 215.
MAX_MODELS = 256
MAX_DISCARDED = 100  # times a run may go back, so that no server can keep a site training forever
LAST_GLOBAL = "FL_global"  # the last global model, without a selection
BEST_GLOBAL = "FL_best_global"  # the global model with the best scores from the sites


def global_name(number: int) -> str:
    """Returns the name of global model `number`; 0 is the initial model."""
    return f"round_{number:03d}"


def global_number(name: str) -> int | None:
    """Returns the number of the global model with this name; None for any other name."""
    match = re.fullmatch(r"round_(\d{3,9})", name)
    return int(match[1]) if match else None


def is_global(name: str) -> bool:
    """Returns whether a name is reserved for global models."""
    return name in (LAST_GLOBAL, BEST_GLOBAL) or re.fullmatch(r"round_\d{3,}", name) is not None


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing for a site to do.

    - train: download `model`, score it if that is due, train it, and upload the update of `round`.
    - score: download `model` and score it.
    - publish: upload the local models that the site lends to the evaluation.
    - share, mask, consent, reveal: with secure aggregation, do this part of an exchange (see
      `sum_phases`); "train" then ends with the site's keys in place of its update.
    - evaluate: download each of `models`, score it on the test cases, and submit the rows.
    - wait: do nothing now, and ask again.
    - finished: stop; the run needs nothing more from this site.
    """

    kind: Kind
    round: int = 0
    model: str = ""
    models: tuple[str, ...] = ()
    discarded: int = 0  # of train: how often the operator discarded rounds of the run
    exchange: int = 0  # number of the exchange within the round, 0 without secure aggregation


def check_task(
    task: Task,
    *,
    trained: int,
    num_rounds: int,
    discarded: int = 0,
    evaluated: Collection[str] = (),
) -> None:
    """Checks at a site that a task fits what the site has done: rounds increase, within bounds.

    Args:
      trained: the last round that this site trained, 0 before the first. The same round may come
        again, because the server may have lost the update. Rounds may be skipped, because the site
        may have been away.
      num_rounds: number of rounds of the run, as the server stated at login.
      discarded: how often rounds had been discarded when this site last heard of it. Each further
        time, the run may go back to any round.
      evaluated: models that this site has evaluated in this run.
    Raises:
      ServerMisbehaves: naming the task and its fault.
    """
    refused = errors.ServerMisbehaves.because
    numbers = {"publish": 0, "evaluate": 0, "score": task.round}.get(task.kind)
    if numbers is not None and (task.round, task.exchange) != (numbers, 0):
        # A site does a task that comes again more and more slowly; other numbers make it another.
        raise refused(
            f"asks to {task.kind} in exchange {task.exchange} of round {task.round}, which has no "
            "such task"
        )
    if task.kind == "train":
        if not discarded <= task.discarded <= MAX_DISCARDED:
            raise refused(
                f"says that rounds were discarded {task.discarded} times, and {discarded} times "
                f"before; expected {MAX_DISCARDED} at most"
            )
        if not (1 if task.discarded > discarded else max(1, trained)) <= task.round <= num_rounds:
            raise refused(
                f"asks for training in round {task.round}, but the run has {num_rounds} rounds "
                f"and this site trained round {trained} last"
            )
        _check_model_of(task, task.round - 1)
        _check_exchange(task)
    elif task.kind in SUM_KINDS:
        if not 1 <= task.round <= num_rounds:
            raise refused(
                f"asks to {task.kind} in round {task.round}, but the run has {num_rounds} rounds"
            )
        _check_exchange(task)
    elif task.kind == "score":
        if not 0 <= task.round <= num_rounds:
            raise refused(
                f"asks for scores of global model {task.round}, but the run has {num_rounds} rounds"
            )
        _check_model_of(task, task.round)
    elif task.kind == "evaluate":
        for name in task.models:
            check_model_name(name)
        if len(set(task.models)) != len(task.models):
            raise refused(
                f"asks for the evaluation of {len(task.models)} models and names one twice"
            )
        if len({*task.models, *evaluated}) > MAX_MODELS:
            raise refused(
                f"asks for the evaluation of {len(task.models)} models after {len(evaluated)}; "
                f"a site evaluates {MAX_MODELS} in a run at most"
            )


def check_model_name(name: str) -> None:
    """Checks a name from the server before it is used in a path, a row or a log.

    Raises:
      ServerMisbehaves: if it cannot be a model's name.
    """
    if not MODEL_NAME.fullmatch(name):
        shown = printable.text(repr(name), limit=80)
        raise errors.ServerMisbehaves.because(
            f"names a model {shown}; expected letters, digits, '_' and '-', at most 64"
        )


def _check_exchange(task: Task) -> None:
    if not 0 <= task.exchange <= MAX_EXCHANGES:
        raise errors.ServerMisbehaves.because(
            f"asks to {task.kind} in exchange {task.exchange} of round {task.round}; "
            f"a round has {MAX_EXCHANGES} at most"
        )


def _check_model_of(task: Task, number: int) -> None:
    check_model_name(task.model)
    if task.model != global_name(number):
        raise errors.ServerMisbehaves.because(
            f"asks to {task.kind} in round {task.round} with model {task.model}; "
            f"it must be {global_name(number)}"
        )


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
      open_round: number of the open round; None after the last round.
      num_rounds: fewer than planned if the run was told to end early.
      paused: the operator has paused the run; sites that ask are told to wait.
      closing: the open round is over and being aggregated.
      participants: sites with an update in any round.
      scored: sites that scored the last global model.
      declared: sites that have published all their models, or have none to publish.
      models: the models that every site evaluates; empty until they are fixed.
      reported: sites whose rows were received.
      discarded: how often the operator has discarded rounds.
      exchange: the exchange of the open round, in a run with secure aggregation.
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
    discarded: int = 0
    exchange: Exchange | None = None


def next_task(progress: Progress, site: str) -> Task:
    """Returns what `site` has to do now.

    Asking again changes nothing, so a lost reply or a restart does no harm.
    """
    if progress.paused and not progress.finished:
        return Task("wait")
    if progress.open_round is not None:
        number = progress.open_round.number
        if progress.exchange is not None and not progress.closing:
            return _task_of_exchange(progress, progress.exchange, number, site)
        if progress.closing or site in progress.open_round.received:
            return Task("wait")
        return Task(
            "train", round=number, model=global_name(number - 1), discarded=progress.discarded
        )
    if progress.finished or site in progress.reported or site not in progress.participants:
        return Task("finished")
    if progress.models:
        return Task("evaluate", models=progress.models)
    if site not in progress.scored:
        return Task("score", round=progress.num_rounds, model=global_name(progress.num_rounds))
    if site not in progress.declared:
        return Task("publish")
    return Task("wait")


def _task_of_exchange(progress: Progress, exchange: Exchange, number: int, site: str) -> Task:
    phase = sum_phases.task_of(exchange, site)
    if phase is None:
        return Task("wait")
    task = Task("train", round=number, discarded=progress.discarded, exchange=exchange.number)
    if phase == "keys":
        return dataclasses.replace(task, model=global_name(number - 1))
    return dataclasses.replace(task, kind=phase)
