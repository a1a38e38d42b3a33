"""The preparation of a cohort: manifest -> RAS+ -> isotropic -> HU window -> case store.

Can be stopped anywhere and run again: a case that is done with the same files and settings is not
done again. A bad case never stops the others.
"""

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
from typing import Any

from absl import logging

from preprocessing import budget, case_store, declared_labels, sources
from preprocessing.budget import Budget, CaseNeed
from preprocessing.case_preparation import prepare_case
from preprocessing.case_store import CaseStore
from preprocessing.checks import rules, same_scan
from preprocessing.checks.rules import broken
from preprocessing.manifest import Case, CaseManifest
from preprocessing.splits import listed_split, split_cases
from runkit import atomic, private, progress
from runkit import workers as processes

_LISTEN_S = 0.5  # between two looks at what the workers are doing


def prepare(
    manifest: CaseManifest,
    root: str | os.PathLike,
    *,
    target_mm: Sequence[float],
    window_hu: Sequence[float] = (-200.0, 250.0),
    split_seed: int,
    split_counts: Sequence[int] | None = None,
    split_ratio: Sequence[float] = (0.6, 0.2, 0.2),
    split_lists: Mapping[str, Sequence[str]] | None = None,
    workers: int = 1,
    memory_bytes: int | None = None,
    strict: bool = True,
) -> CaseStore:
    """Prepares every labelled case of a manifest and returns the store.

    Args:
      root: folder of the store; made if it is missing, continued if it is there.
      target_mm: spacing of the training grid, x, y, z.
      window_hu: HU that become -1 and 1. split_seed, split_counts, split_ratio: see
      `splits.split_cases`; the split is over the cases that pass.
      split_lists: who is in which split, in place of a drawn one, see `splits.listed_split`.
      workers: cases at the same time, each in its own process; 0 for one a processor. Calling
        scripts need the usual `if __name__ == "__main__"`.
      memory_bytes: limit of all processes together, which cases wait for; by default four fifths of
          the memory that is free now.
      strict: end with an error when a case is refused. The others are prepared either way, so a
          second run finds them done.
    Raises:
      ValueError: if no case is left, the split does not fit, or, when strict, a case was refused:
        all of them are named, and listed in `<root>/rejected.json`, which is written as cases end.
        No index is written then, so the store cannot be opened half made. Also if the store cannot
        be written: with the file, what is needed and free, and what stays.
    """
    root = pathlib.Path(root)
    settings = _settings(target_mm, window_hu, manifest.label_values)
    cases = [case for case in manifest.included if case.label is not None]
    unlabelled = len(manifest.included) - len(cases)
    if unlabelled:
        logging.info(
            "site=%s unlabelled=%d: scans without label are not prepared", manifest.site, unlabelled
        )
    sources.require_readers(manifest)

    # an impossible split is refused before the work, not after it
    def split(case_ids):
        if split_lists is not None:
            return listed_split(case_ids, split_lists)
        return split_cases(case_ids, seed=split_seed, counts=split_counts, ratio=split_ratio)

    split([case.case_id for case in cases])
    needs = {case.case_id: budget.case_need(case, settings["target_mm"]) for case in cases}
    workers = budget.choose_workers(len(cases), workers)
    limit = memory_bytes or budget.default_limit_bytes()
    _require_room(needs, workers, limit)
    _clean(root)
    made_of: dict[str, dict[str, str]] = {}
    slices: dict[str, list[str]] = {}
    refused: dict[str, dict[str, str]] = {}
    with (
        _Progress(f"prepare {manifest.site}", cases, needs) as shown,
        # closed here, so that its workers are ended with the work and not some time later
        contextlib.closing(
            _outcomes(cases, root, settings, workers, needs, limit, shown)
        ) as outcomes,
    ):
        try:
            for case, outcome in outcomes:
                if "sources" in outcome:
                    made_of[case.case_id], slices[case.case_id] = (
                        outcome["sources"],
                        outcome["slices"],
                    )
                else:
                    refused[case.case_id] = outcome
                    logging.warning(
                        "site=%s rule=%s: a case is refused", manifest.site, outcome["rule"]
                    )
                    _report(root, _rejected(cases, refused))
                shown.finished(case.case_id, refused="sources" not in outcome)
        except OSError as error:  # reading is a case's own failure, so this is the store
            left = [
                needs[case.case_id]
                for case in cases
                if case.case_id not in made_of and case.case_id not in refused
            ]
            raise ValueError(
                _unwritten(
                    error,
                    root,
                    sum(need.disk_bytes for need in left if need is not None),
                    len(made_of),
                )
            ) from error
    for case in cases:
        # From the prepared cases, and for each of them: an earlier run may have prepared it under
        # another declaration.
        shown = case.case_id in made_of and declared_labels.contradicted(
            manifest.declared, case_store.label_values(root, case.case_id)
        )
        if shown:
            error = rules.contradicts_declaration(case.label, shown)
            refused[case.case_id] = {"rule": error.rule, "file": error.file, "problem": str(error)}
            del made_of[case.case_id]
            logging.warning("site=%s rule=%s: a case is refused", manifest.site, error.rule)
    passed = [case for case in cases if case.case_id in made_of]
    for case_id, error in same_scan.refusals(
        passed, slices, {i: files["label"] for i, files in made_of.items()}
    ).items():
        refused[case_id] = {"rule": error.rule, "file": error.file, "problem": str(error)}
        del made_of[case_id]
        logging.warning("site=%s rule=%s: a case is refused", manifest.site, error.rule)
    rejected = _rejected(cases, refused)
    _report(root, rejected)
    if rejected and strict:
        raise ValueError(_summary(rejected, len(cases), root))
    accepted = {i: made_of[i] for i in sorted(made_of)}
    if not accepted:
        raise ValueError(
            f"{root}: every case was refused, nothing is prepared\n"
            + _summary(rejected, len(cases), root)
        )
    splits = split(accepted)
    try:
        case_store.write_index(
            root,
            site=manifest.site,
            seed=split_seed,
            settings=settings,
            splits=splits,
            sources=accepted,
            declared=manifest.declared,
        )
    except OSError as error:
        raise ValueError(_unwritten(error, root, 0, len(accepted))) from error
    return CaseStore(root)


def plan(
    manifest: CaseManifest,
    root: str | os.PathLike,
    *,
    target_mm: Sequence[float],
    window_hu: Sequence[float] = (-200.0, 250.0),
    workers: int = 1,
    memory_bytes: int | None = None,
) -> Budget:
    """Returns what `prepare` with the same arguments will need, from the files' headers and a short
    measurement; writes nothing.

    A case counts as done when an earlier run prepared it with these settings; whether its files
    changed since, `prepare` finds out.

    Raises:
      ValueError: as `prepare`, for settings or a limit of memory that make it impossible.
    """
    settings = _settings(target_mm, window_hu, manifest.label_values)
    cases = [case for case in manifest.included if case.label is not None]
    sources.require_readers(manifest)
    open_cases = [
        case
        for case in cases
        if (case_store.read_case(case_store.case_folder(root, case.case_id)) or {}).get("settings")
        != settings
    ]
    return budget.cohort_budget(
        [budget.case_need(case, settings["target_mm"]) for case in open_cases],
        done=len(cases) - len(open_cases),
        workers=budget.choose_workers(len(cases), workers),
        limit_bytes=memory_bytes or budget.default_limit_bytes(),
        speed=budget.measure_speed(),
    )


def _require_room(needs: Mapping[str, CaseNeed | None], workers: int, limit: int) -> None:
    budget.cohort_budget(
        needs.values(), done=0, workers=workers, limit_bytes=limit, speed=budget.Speed(0.0, 0.0)
    )


def _settings(
    target_mm: Sequence[float], window_hu: Sequence[float], label_values: Mapping[int, int] | None
) -> dict[str, Any]:
    spacing, window = [float(v) for v in target_mm], [float(v) for v in window_hu]
    if len(spacing) != 3 or not all(v > 0 for v in spacing):
        raise ValueError(f"target_mm is {tuple(target_mm)}; expected three lengths above 0")
    if len(window) != 2 or not window[0] < window[1]:
        raise ValueError(
            f"window_hu is {tuple(window_hu)}; expected (low, high) with low below high"
        )
    values = (
        None if label_values is None else {str(k): int(v) for k, v in sorted(label_values.items())}
    )
    return {"target_mm": spacing, "window_hu": window, "label_values": values}


class _Progress:
    """The bar of a cohort: its length is in voxels, since cases differ tenfold; behind it stands
    what is being done.

    Cases appear by their place in the manifest: a log that someone forwards names no patient.
    """

    def __init__(
        self,
        what: str,
        cases: Sequence[Case],
        needs: Mapping[str, CaseNeed | None],
        skipped: int = 0,
    ):
        self._needs, self._cases, self._refused, self._finished = needs, len(cases), 0, skipped
        self._number = {case.case_id: number for number, case in enumerate(cases, start=1)}
        self._stages: dict[str, str] = {}
        self._bar = progress.bar(
            total=round(sum(self._megavoxels(case.case_id) for case in cases)),
            what=what,
            unit="Mvoxel",
        )

    def __enter__(self) -> _Progress:
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
        self._bar.update(round(self._megavoxels(case_id), 1))

    def _show(self) -> None:
        doing = "".join(
            f", {stage} no. {self._number[case_id]}" for case_id, stage in self._stages.items()
        )
        self._bar.set_postfix_str(
            f"{self._finished}/{self._cases} cases, {self._refused} refused{doing}", refresh=False
        )

    def _megavoxels(self, case_id: str) -> float:
        need = self._needs.get(case_id)
        return 0.0 if need is None else need.native_voxels / 1e6


def _outcomes(
    cases: Sequence[Case],
    root: pathlib.Path,
    settings: Mapping[str, Any],
    workers: int,
    needs: Mapping[str, CaseNeed | None],
    limit_bytes: int,
    shown: _Progress,
) -> Generator[tuple[Case, dict[str, Any]], None, None]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    if workers == 1:
        for case in cases:
            report = functools.partial(shown.stage, case.case_id)
            yield case, prepare_case(case, root, settings, threads=threads, report=report)
        return
    work = functools.partial(_in_worker, root=root, settings=settings, threads=threads)
    waiting = list(cases)
    while waiting:
        under_way = []
        with contextlib.closing(
            _in_processes(waiting, work, workers, needs, limit_bytes, shown)
        ) as outcomes:
            for case, outcome in outcomes:
                if outcome is None:
                    under_way.append(case)
                else:
                    yield case, outcome
        if under_way:
            logging.warning(
                "a worker process was killed, the %d cases under way are prepared again, one by one",
                len(under_way),
            )
            _remove_partial(root)
        for case in under_way:
            with contextlib.closing(
                _in_processes([case], work, 1, needs, limit_bytes, shown)
            ) as outcomes:
                for _, outcome in outcomes:
                    yield case, outcome or _killed(case)
            _remove_partial(root)


def _in_processes(
    waiting: list[Case],
    work: Callable[[Case], dict[str, Any]],
    workers: int,
    needs: Mapping[str, CaseNeed | None],
    limit_bytes: int,
    shown: _Progress,
) -> Generator[tuple[Case, dict[str, Any] | None], None, None]:
    """Yields each case with its outcome as it ends; takes it out of `waiting` as it begins.

    If a worker is killed, the cases under way are yielded with None, since any of them may be the
    cause, and the others stay in `waiting`.
    """
    free = limit_bytes - budget.idle_bytes(workers)
    stages = multiprocessing.get_context("spawn").SimpleQueue()
    running: dict[concurrent.futures.Future, Case] = {}
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


def _killed(case: Case) -> dict[str, str]:
    problem = "the process that prepared it was killed, most likely for want of memory"
    error = broken(
        rules.UNUSABLE, case.image, problem, "prepare it with more free memory, or exclude the case"
    )
    return {"rule": error.rule, "file": error.file, "problem": str(error)}


def _next_fitting(
    waiting: Sequence[Case], needs: Mapping[str, CaseNeed | None], free: int, others_run: bool
) -> Case | None:
    """Returns the first waiting case that fits into the free memory; without others running, the
    first in any case.
    """
    fitting = (case for case in waiting if _memory(needs, case) <= free)
    return next(fitting, None if others_run or not waiting else waiting[0])


def _memory(needs: Mapping[str, CaseNeed | None], case: Case) -> int:
    need = needs.get(case.case_id)
    return 0 if need is None else need.memory_bytes


_stages: Any = None  # in a worker process: where it tells what it is doing


def _start_worker(stages: Any) -> None:
    global _stages
    _stages = stages


def _in_worker(
    case: Case, *, root: pathlib.Path, settings: Mapping[str, Any], threads: int
) -> dict[str, Any]:
    return prepare_case(
        case,
        root,
        settings,
        threads=threads,
        report=lambda stage: _stages.put((case.case_id, stage)),
    )


def _clean(root: pathlib.Path) -> None:
    """Makes the folder and removes the old index and what a killed run left half written."""
    private.tree(root)
    private.make(root / "cases")
    (root / "index.json").unlink(missing_ok=True)
    _remove_partial(root)
    for leftover in root.glob(".partial-*"):
        leftover.unlink()


def _remove_partial(root: pathlib.Path) -> None:
    for leftover in (root / "cases").glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _rejected(
    cases: Sequence[Case], refused: Mapping[str, Mapping[str, str]]
) -> list[dict[str, str]]:
    return [
        {"case_id": case.case_id, **refused[case.case_id]}
        for case in cases
        if case.case_id in refused
    ]


def _unwritten(error: OSError, root: pathlib.Path, needed: int, finished: int) -> str:
    free = shutil.disk_usage(root).free
    return (
        f"{error}; the cases left need about {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there. Free space, or name another "
        f"--site_folder, and run again: {finished} finished cases stay and are not done again, nothing half written is left"
    )


def _report(root: pathlib.Path, rejected: list[dict[str, str]]) -> None:
    if rejected:
        atomic.write_json(root / "rejected.json", rejected)
    else:
        (root / "rejected.json").unlink(missing_ok=True)


def _summary(rejected: list[dict[str, str]], cases: int, root: pathlib.Path) -> str:
    listed = "\n".join(f"  {r['case_id']}: {r['problem']}" for r in rejected)
    return f"cases are refused:\n{listed}\n{len(rejected)} of {cases} cases refused (also in {root / 'rejected.json'})"
