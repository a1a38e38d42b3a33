"""Prepares the cases of a cohort in worker processes, within a memory limit."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from multiprocessing.queues import SimpleQueue

from absl import logging

from preprocessing import budget, rules
from preprocessing.budget import CaseNeed
from preprocessing.case_list import Case
from preprocessing.case_store import StoreSettings
from preprocessing.preparation.case_preparation import Prepared, prepare_case
from preprocessing.rules import IntegrityError, broken
from runkit import atomic, progress
from runkit import workers as processes

CaseResult = Prepared | IntegrityError
Needs = Mapping[str, CaseNeed | None]

_LISTEN_S = 0.5  # time between two looks at what the workers are doing


class CohortBar:
    """The progress bar of a cohort, followed by the stages of the cases in progress.

    Its length is in voxels, because cases differ tenfold in size. Cases are shown by their position
    in the manifest, so that a log that is passed on does not name a patient.
    """

    def __init__(self, what: str, cases: Sequence[Case], needs: Needs):
        self._needs, self._cases, self._refused, self._finished = needs, len(cases), 0, 0
        self._number = {case.case_id: number for number, case in enumerate(cases, start=1)}
        self._stages: dict[str, str] = {}
        self._bar = progress.bar(
            total=round(sum(self._megavoxels(case.case_id) for case in cases), 1),
            what=what,
            unit="Mvoxel",
        )

    def __enter__(self) -> CohortBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def stage(self, case_id: str, stage: str) -> None:
        self._stages[case_id] = stage
        self._show()

    def finished(self, case_id: str, *, refused: bool) -> None:
        self._stages.pop(case_id, None)
        self._finished, self._refused = self._finished + 1, self._refused + refused
        self._show()
        self._bar.update(self._megavoxels(case_id))

    def _show(self) -> None:
        stages = "".join(
            f", {stage} no. {self._number[case_id]}" for case_id, stage in self._stages.items()
        )
        self._bar.set_postfix_str(
            f"{self._finished}/{self._cases} cases, {self._refused} refused{stages}", refresh=False
        )

    def _megavoxels(self, case_id: str) -> float:
        """Returns the size of a case, rounded so that the sizes of all add up to the total."""
        need = self._needs.get(case_id)
        return 0.0 if need is None else round(need.native_voxels / 1e6, 1)


def outcomes(
    cases: Sequence[Case],
    root: pathlib.Path,
    settings: StoreSettings,
    workers: int,
    needs: Needs,
    limit_bytes: int,
    shown: CohortBar,
) -> Generator[tuple[Case, CaseResult], None, None]:
    """Prepares cases and yields each with its outcome as it finishes.

    If a worker process is killed, the cases in progress are prepared again one by one, so that only
    the case that kills its process is refused.

    Args:
      root: folder of the store.
      workers: number of cases at the same time; 1 prepares them in this process.
      needs: resources that each case needs; None for one whose headers cannot be read.
      limit_bytes: memory limit for all processes together; a case waits until it fits.
      shown: called with each stage.
    Raises:
      CannotWrite: if the store cannot be written.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    if workers == 1:
        for case in cases:
            report = functools.partial(shown.stage, case.case_id)
            yield case, prepare_case(case, root, settings, threads=threads, report=report)
        return
    work = functools.partial(_in_worker, root=root, settings=settings, threads=threads)
    waiting = list(cases)
    while waiting:
        interrupted = []
        with contextlib.closing(
            _in_processes(waiting, work, workers, needs, limit_bytes, shown)
        ) as ended:
            for case, outcome in ended:
                if outcome is None:
                    interrupted.append(case)
                else:
                    yield case, outcome
        if interrupted:
            logging.warning(
                "a worker process was killed; the %d cases in progress are prepared again, "
                "one by one",
                len(interrupted),
            )
            remove_partial(root)
        for case in interrupted:
            with contextlib.closing(
                _in_processes([case], work, 1, needs, limit_bytes, shown)
            ) as ended:
                for _, outcome in ended:
                    yield case, outcome or _killed(case)
            remove_partial(root)


def remove_partial(root: pathlib.Path) -> None:
    """Removes the case folders that a killed process left incomplete."""
    for leftover in atomic.leftovers(root / "cases"):
        shutil.rmtree(leftover, ignore_errors=True)


def _in_processes(
    waiting: list[Case],
    work: Callable[[Case], CaseResult],
    workers: int,
    needs: Needs,
    limit_bytes: int,
    shown: CohortBar,
) -> Generator[tuple[Case, CaseResult | None], None, None]:
    """Yields each case with its outcome as it finishes; removes it from `waiting` as it starts.

    If a worker is killed, the cases in progress are yielded with None, because any of them may be
    the cause; the others stay in `waiting`.
    """
    free = limit_bytes - budget.idle_bytes(workers)
    stages = multiprocessing.get_context("spawn").SimpleQueue()
    running: dict[concurrent.futures.Future[CaseResult], Case] = {}
    try:
        with processes.pool(workers, initializer=_start_worker, initargs=(stages,)) as pool:
            while waiting or running:
                while (
                    len(running) < workers
                    and (case := _next_fitting(waiting, needs, free, bool(running))) is not None
                ):
                    running[pool.submit(work, case)] = case
                    waiting.remove(case)
                    free -= _memory(needs, case)
                finished, _ = concurrent.futures.wait(
                    running, timeout=_LISTEN_S, return_when=concurrent.futures.FIRST_COMPLETED
                )
                while not stages.empty():
                    shown.stage(*stages.get())
                for future in finished:
                    outcome = future.result()
                    case = running.pop(future)
                    free += _memory(needs, case)
                    yield case, outcome
    except concurrent.futures.process.BrokenProcessPool:
        for case in running.values():
            yield case, None


def _killed(case: Case) -> IntegrityError:
    problem = "the process that prepared it was killed, most likely for lack of memory"
    fix = "prepare it with more free memory, or exclude the case"
    return broken(rules.UNUSABLE, case.image, problem, fix)


def _next_fitting(
    waiting: Sequence[Case], needs: Needs, free: int, others_run: bool
) -> Case | None:
    """Returns the first waiting case that fits into the free memory, None if none does.

    If no other case is running, it returns the first case whether it fits or not.
    """
    fitting = (case for case in waiting if _memory(needs, case) <= free)
    return next(fitting, None if others_run or not waiting else waiting[0])


def _memory(needs: Needs, case: Case) -> int:
    need = needs.get(case.case_id)
    return 0 if need is None else need.memory_bytes


# In a worker process: the queue of (case_id, stage) through which it reports its progress.
_stages: SimpleQueue[tuple[str, str]] | None = None


def _start_worker(stages: SimpleQueue[tuple[str, str]]) -> None:
    global _stages
    _stages = stages


def _in_worker(
    case: Case, *, root: pathlib.Path, settings: StoreSettings, threads: int
) -> CaseResult:
    def report(stage: str) -> None:
        if _stages is not None:
            _stages.put((case.case_id, stage))

    return prepare_case(case, root, settings, threads=threads, report=report)
