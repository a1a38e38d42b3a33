"""The preparation of a cohort: manifest -> RAS+ -> training grid -> HU window -> case store.

It can be stopped at any time and run again: a case that is prepared from the same files with the
same settings is not prepared again. A case that fails never stops the others.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence

from absl import logging

from preprocessing import budget, case_store, declared_labels, rules, sources
from preprocessing.budget import Budget, CaseNeed
from preprocessing.case_list import Case, CaseManifest
from preprocessing.case_store import CaseStore, StoreSettings
from preprocessing.checks import same_scan
from preprocessing.preparation import case_workers
from preprocessing.preparation.case_preparation import Prepared
from preprocessing.rules import IntegrityError
from preprocessing.splits import listed_split, split_cases
from runkit import atomic, private


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
      root: folder of the store; created if it is missing, continued if it exists.
      target_mm: spacing of the training grid, x, y, z.
      window_hu: HU that become -1 and 1.
      split_seed, split_counts, split_ratio: see `splits.split_cases`. The split is over the cases
        that pass.
      split_lists: split -> cases, instead of a random split; see `splits.listed_split`.
      workers: cases prepared at the same time, each in its own process; 0 means one per processor.
        Calling scripts need the usual `if __name__ == "__main__"`.
      memory_bytes: limit for all processes together, for which cases wait; by default four fifths
        of the memory that is free now.
      strict: end with an error if a case is refused. The others are still prepared, so that a
        second run finds them done.
    Raises:
      ValueError: if no case is left, the split does not fit, or, when strict, a case is refused.
        The message names all refused cases; `<root>/rejected.json`, which is updated as cases
        finish, lists them too. The index is then not written, so that an incomplete store cannot be
        opened. Also if the store cannot be written: the message names the file, the space needed,
        the free space, and what is kept.
    """
    root = pathlib.Path(root)
    settings = _settings(target_mm, window_hu, manifest.label_values)
    cases = [case for case in manifest.included if case.label is not None]
    unlabelled = len(manifest.included) - len(cases)
    if unlabelled:
        logging.info(
            "site=%s unlabelled=%d: scans without a label are not prepared",
            manifest.site,
            unlabelled,
        )
    if not cases:
        raise ValueError(
            f"site {manifest.site} has no case to prepare: of {len(manifest.cases)} listed cases, "
            f"{unlabelled} have no label and {len(manifest.excluded)} are excluded; "
            "correct the manifest"
        )
    sources.require_readers(manifest)

    def split(case_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        if split_lists is not None:
            return listed_split(case_ids, split_lists)
        return split_cases(case_ids, seed=split_seed, counts=split_counts, ratio=split_ratio)

    split([case.case_id for case in cases])  # refuses an impossible split before the work starts
    needs = {case.case_id: budget.case_need(case, settings["target_mm"]) for case in cases}
    workers = budget.choose_workers(len(cases), workers)
    limit = memory_bytes or budget.default_limit_bytes()
    _require_room(needs, workers, limit)
    _clean(root)
    prepared: dict[str, Prepared] = {}
    refused: dict[str, IntegrityError] = {}

    def refuse(case_id: str, error: IntegrityError) -> None:
        refused[case_id] = error
        prepared.pop(case_id, None)
        logging.warning("site=%s rule=%s: a case is refused", manifest.site, error.rule)

    with (
        case_workers.CohortBar(f"prepare {manifest.site}", cases, needs) as shown,
        # closed at the end of the block, so that the worker processes do not outlive it
        contextlib.closing(
            case_workers.outcomes(cases, root, settings, workers, needs, limit, shown)
        ) as outcomes,
    ):
        try:
            for case, outcome in outcomes:
                if isinstance(outcome, Prepared):
                    prepared[case.case_id] = outcome
                else:
                    refuse(case.case_id, outcome)
                    _report(root, _rejected(cases, refused))
                shown.finished(case.case_id, refused=not isinstance(outcome, Prepared))
        except OSError as error:  # unreadable cases are refused, so this error is the store's
            ended = prepared.keys() | refused.keys()
            left = [needs[case.case_id] for case in cases if case.case_id not in ended]
            needed = sum(need.disk_bytes for need in left if need is not None)
            raise ValueError(_unwritten(error, root, needed, len(prepared))) from error
    _refuse_contradictions(manifest, root, cases, prepared, refuse)
    passed = [case for case in cases if case.case_id in prepared]
    for case_id, problem in same_scan.refusals(
        passed,
        {i: one.slices for i, one in prepared.items()},
        {i: one.sources["label"] for i, one in prepared.items()},
    ).items():
        refuse(case_id, problem)
    rejected = _rejected(cases, refused)
    _report(root, rejected)
    if rejected and strict:
        raise ValueError(
            f"{_summary(rejected, len(cases), root)}. The others are prepared: correct or exclude "
            "these and run again, or add --nostrict to go on without them"
        )
    accepted = {i: prepared[i].sources for i in sorted(prepared)}
    if not accepted:
        raise ValueError(
            f"{root}: every case was refused, so nothing was prepared\n"
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


def estimate(
    manifest: CaseManifest,
    root: str | os.PathLike,
    *,
    target_mm: Sequence[float],
    window_hu: Sequence[float] = (-200.0, 250.0),
    workers: int = 1,
    memory_bytes: int | None = None,
) -> Budget:
    """Returns what `prepare` with the same arguments will need, and writes nothing.

    It reads the headers of the files and makes a short measurement. A case counts as done if an
    earlier run prepared it with these settings; only `prepare` finds out whether its files have
    changed since.

    Raises:
      ValueError: as `prepare`, for settings or a memory limit with which it cannot succeed.
    """
    root = pathlib.Path(root)
    settings = _settings(target_mm, window_hu, manifest.label_values)
    cases = [case for case in manifest.included if case.label is not None]
    sources.require_readers(manifest)
    open_cases = [
        case
        for case in cases
        if (case_store.read_case_record(case_store.case_folder(root, case.case_id)) or {}).get(
            "settings"
        )
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
) -> StoreSettings:
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


def _refuse_contradictions(
    manifest: CaseManifest,
    root: pathlib.Path,
    cases: Sequence[Case],
    prepared: Mapping[str, Prepared],
    refuse: Callable[[str, IntegrityError], None],
) -> None:
    """Refuses the cases whose label shows a class that the manifest declares to be in no label.

    It checks the stored labels of all cases, because an earlier run may have prepared some of them
    under another declaration.
    """
    for case in cases:
        if case.case_id not in prepared:
            continue
        values = case_store.classes_of_label(root, case.case_id)
        shown = declared_labels.contradicted(manifest.declared, values)
        if shown:
            refuse(case.case_id, rules.contradicts_declaration(case.required_label, shown))


def _clean(root: pathlib.Path) -> None:
    """Creates the folder; removes the old index and cases that a killed run left incomplete."""
    case_store.refuse_newer(root)
    private.tree(root)
    private.make(root / "cases")
    if any((root / "cases").iterdir()):
        atomic.sync_directory(root / "cases")  # a killed run may have finished a case without it
    (root / "index.json").unlink(missing_ok=True)
    case_workers.remove_partial(root)
    for leftover in atomic.leftovers(root):
        leftover.unlink()


def _rejected(cases: Sequence[Case], refused: Mapping[str, IntegrityError]) -> list[dict[str, str]]:
    """Returns the entries of rejected.json, in the order of the manifest."""
    return [
        {"case_id": case.case_id, "rule": error.rule, "file": error.file, "problem": str(error)}
        for case in cases
        if (error := refused.get(case.case_id)) is not None
    ]


def _unwritten(error: OSError, root: pathlib.Path, needed: int, finished: int) -> str:
    free = shutil.disk_usage(root).free
    return (
        f"{error}; the remaining cases need about {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB "
        "are free there. Free space, or name another --site_folder, and run again: "
        f"{finished} finished cases are kept and will not be repeated; no partial case is left"
    )


def _report(root: pathlib.Path, rejected: list[dict[str, str]]) -> None:
    if rejected:
        atomic.write_json(root / "rejected.json", rejected)
    else:
        (root / "rejected.json").unlink(missing_ok=True)


def _summary(rejected: list[dict[str, str]], cases: int, root: pathlib.Path) -> str:
    listed = "\n".join(f"  {r['case_id']}: {r['problem']}" for r in rejected)
    return (
        f"cases are refused:\n{listed}\n"
        f"{len(rejected)} of {cases} cases refused (also in {root / 'rejected.json'})"
    )
