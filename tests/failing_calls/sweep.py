"""Tries the faults of a workload, all of them or a sample, and counts."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from tests.failing_calls import interception
from tests.failing_calls.interception import Call, Fault

MAKING = (
    "request",
    "request-again",
    "answer",
    "answer-again",
    "revoked",
    "provision",
    "provision-again",
    "add",
    "add-request",
    "renew",
    "revoke",
    "list",
)
LOOKING = ("audit", "verify", "doctor", "doctor-server", "status", "operate", "list-cases")
NAMES = ("server", "site", "ledger", "prepare", "predict", "train", *MAKING, *LOOKING)
SECONDS = {  # of one trial on one core
    "server": 1.4,
    "site": 1.4,
    "ledger": 0.2,
    "prepare": 0.5,
    "predict": 3.0,
    "train": 10.0,
    **dict.fromkeys((*MAKING, *LOOKING), 0.3),
}


class Workload(Protocol):
    """A program or federation in which system calls fail."""

    name: str

    def calls(self, kinds: Collection[str]) -> Sequence[Call]:
        """Runs undisturbed; returns its calls of these kinds."""

    def trial(self, fault: Fault) -> tuple[Sequence[Call], list[str]]:
        """Runs with a fault, and again without; returns the failed calls and the problems found."""


@dataclasses.dataclass(frozen=True)
class Failure:
    fault: Fault
    calls: Sequence[Call]
    problems: Sequence[str]

    def __str__(self) -> str:
        return f"{self.fault} ({', '.join(map(str, self.calls[:3]))}): {'; '.join(self.problems)}"


def workload(name: str, folder: pathlib.Path) -> Workload:
    """Makes a workload in a new folder.

    Raises:
      CannotIntercept: if system calls cannot be intercepted here.
      ImportError: if the workload needs TensorFlow and it is not installed.
    """
    interception.require()
    folder.mkdir(parents=True)
    if name in ("server", "site"):
        from tests.failing_calls.federation import Federation

        return Federation(name, folder)
    if name == "ledger":
        from tests.failing_calls.spending import Spending

        return Spending(folder)
    if name == "prepare":
        from tests.failing_calls.preparation import preparation

        return preparation(folder)
    if name == "predict":
        from tests.failing_calls.prediction import prediction

        return prediction(folder)
    if name in MAKING:
        from tests.failing_calls import kits

        return kits.scenario(name, folder)
    if name in LOOKING:
        from tests.failing_calls import inspections

        return inspections.SCENARIOS[name](folder)
    from tests.failing_calls.training import training

    return training(folder)


def kinds_of(name: str) -> tuple[str, ...]:
    asks = name in ("server", "site", "doctor", "status", "operate")
    sockets = interception.SOCKETS if asks else ()
    return (*interception.FILES, *sockets)


def sample(every: Sequence[Fault], count: int | None, *, seed: int) -> list[Fault]:
    """Returns `count` of the faults, evenly over kinds of call and errors; all if it is None."""
    if count is None or count >= len(every):
        return list(every)
    rng = random.Random(seed)
    left: dict[tuple[str, str], list[Fault]] = {}
    for fault in every:
        left.setdefault((fault.kind, fault.error), []).append(fault)
    for some in left.values():
        rng.shuffle(some)
    chosen: list[Fault] = []
    while len(chosen) < count:
        for some in left.values():
            if some and len(chosen) < count:
                chosen.append(some.pop())
    return chosen


def try_all(
    work: Workload,
    faults: Iterable[Fault],
    *,
    on_failure: Callable[[Failure], None] = lambda failure: None,
    progress: Callable[[int, int], None] = lambda done, reached: None,
) -> tuple[int, list[Failure]]:
    """Returns how many faults took effect, and the failures."""
    reached, failures = 0, []
    for done, fault in enumerate(faults, 1):
        failed, problems = work.trial(fault)
        reached += bool(failed)
        if problems:
            failures.append(Failure(fault, failed, problems))
            on_failure(failures[-1])
        progress(done, reached)
    return reached, failures


def began() -> Callable[[], float]:
    start = time.monotonic()
    return lambda: time.monotonic() - start
