"""The preparation of a cohort: manifest -> RAS+ -> isotropic -> HU window -> case store.

Can be stopped anywhere and run again: a case that is done with the same files and settings is not done again. A bad case never
stops the others.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from preprocessing import case_store, geometry, integrity, intensity, resampling, rules, sources
from preprocessing.case_store import CaseStore
from preprocessing.manifest import Case, Manifest
from preprocessing.splits import split_cases
from preprocessing.volume import Volume
from runkit import atomic, progress


def prepare(
    manifest: Manifest,
    root: str | os.PathLike,
    *,
    target_mm: Sequence[float],
    window_hu: Sequence[float] = (-200.0, 250.0),
    split_seed: int,
    split_counts: Sequence[int] | None = None,
    split_ratio: Sequence[float] = (0.6, 0.2, 0.2),
    workers: int = 1,
    strict: bool = True,
) -> CaseStore:
    """Prepares every labelled case of a manifest and returns the store.

    Args:
      root: folder of the store; made if it is missing, continued if it is there.
      target_mm: spacing of the training grid, x, y, z.
      window_hu: HU that become -1 and 1.
      split_seed, split_counts, split_ratio: see `splits.split_cases`; the split is over the cases that pass.
      workers: cases at the same time, each in its own process. Calling scripts need the usual `if __name__ == "__main__"`.
      strict: end with an error when a case is refused. The others are prepared either way, so a second run finds them done.
    Raises:
      ValueError: if no case is left, the split does not fit, or, when strict, a case was refused: all of them are named, and
        listed in `<root>/rejected.json`. No index is written then, so the store cannot be opened half made.
    """
    root = pathlib.Path(root)
    settings = _settings(target_mm, window_hu, manifest.label_values)
    cases = [case for case in manifest.included if case.label is not None]
    unlabelled = len(manifest.included) - len(cases)
    if unlabelled:
        logging.info("site=%s unlabelled=%d: scans without label are not prepared", manifest.site, unlabelled)
    sources.require_readers(manifest)
    # an impossible split is refused before the work, not after it
    split_cases([case.case_id for case in cases], seed=split_seed, counts=split_counts, ratio=split_ratio)
    _clean(root)
    made_of: dict[str, dict[str, str]] = {}
    refused: dict[str, dict[str, str]] = {}
    with progress.bar(total=len(cases), what=f"prepare {manifest.site}", unit="case") as bar:
        for case, outcome in _outcomes(cases, root, settings, workers):
            if "sources" in outcome:
                made_of[case.case_id] = outcome["sources"]
            else:
                refused[case.case_id] = outcome
                logging.warning("site=%s rule=%s: a case is refused", manifest.site, outcome["rule"])
            bar.set_postfix_str(f"{len(refused)} refused")
            bar.update()
    in_order = [case.case_id for case in cases]
    rejected = [{"case_id": i, **refused[i]} for i in in_order if i in refused]
    _report(root, rejected)
    if rejected and strict:
        raise ValueError(_summary(rejected, len(cases), root))
    accepted = {i: made_of[i] for i in sorted(made_of)}
    if not accepted:
        raise ValueError(f"{root}: every case was refused, nothing is prepared\n" + _summary(rejected, len(cases), root))
    splits = split_cases(accepted, seed=split_seed, counts=split_counts, ratio=split_ratio)
    case_store.write_index(root, site=manifest.site, seed=split_seed, settings=settings, splits=splits, sources=accepted)
    return CaseStore(root)


def prepare_volumes(image: Volume, label: Volume, settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a case on the training grid.

    Args:
      image: CT in HU; `label`: its classes. Both in RAS+, on one grid.
      settings: `target_mm` and `window_hu`.
    Returns:
      Image float16 [x, y, z] in [-1, 1] and label uint8 [x, y, z], C-ordered: x slowest, as patches are cut.
    """
    spacing_mm, target_mm = image.spacing_mm, tuple(settings["target_mm"])
    hu = resampling.resample_linear(image.array, spacing_mm, target_mm)
    labels = resampling.resample_nearest(label.array, spacing_mm, target_mm)
    return _windowed(hu, tuple(settings["window_hu"])), np.ascontiguousarray(labels)


def _windowed(hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    # Windowed and turned in slabs of 32 slices: the turn from file order (x fastest) to C order then writes whole cache lines.
    result = np.empty(hu.shape, dtype=np.float16)
    for start in range(0, hu.shape[2], 32):
        part = slice(start, start + 32)
        result[:, :, part] = intensity.window(hu[:, :, part], *window_hu).astype(np.float16)
    return result


def _settings(target_mm: Sequence[float], window_hu: Sequence[float], label_values: Mapping[int, int] | None) -> dict[str, Any]:
    spacing, window = [float(v) for v in target_mm], [float(v) for v in window_hu]
    if len(spacing) != 3 or not all(v > 0 for v in spacing):
        raise ValueError(f"target_mm is {tuple(target_mm)}; expected three lengths above 0")
    if len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"window_hu is {tuple(window_hu)}; expected (low, high) with low below high")
    values = None if label_values is None else {str(k): int(v) for k, v in sorted(label_values.items())}
    return {"target_mm": spacing, "window_hu": window, "label_values": values}


def _outcomes(
    cases: Sequence[Case], root: pathlib.Path, settings: Mapping[str, Any], workers: int
) -> Iterator[tuple[Case, dict[str, Any]]]:
    if workers <= 1 or len(cases) <= 1:
        for case in cases:
            yield case, _prepare_case(case, root, settings)
        return
    # spawn: a forked child of a process that runs TensorFlow can hang on a lock held at the fork
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(cases)), mp_context=context) as pool:
        futures = {pool.submit(_prepare_case, case, root, settings): case for case in cases}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()


def _prepare_case(case: Case, root: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Prepares one case unless it is done. Returns its `sources`, or why it is refused: `rule`, `file`, `problem`."""
    try:
        made_of = sources.digests(case)
        done = case_store.read_case(case_store.case_folder(root, case.case_id))
        if done is None or (done.get("sources"), done.get("settings")) != (made_of, dict(settings)):
            _make_case(case, root, settings, made_of)
    except rules.IntegrityError as error:
        return {"rule": error.rule, "file": error.file, "problem": str(error)}
    except (ValueError, MemoryError) as error:
        return {"rule": rules.UNUSABLE.id, "file": str(case.image), "problem": f"{case.image}: {error or 'does not fit into memory'}"}
    return {"sources": made_of}


def _make_case(case: Case, root: pathlib.Path, settings: Mapping[str, Any], made_of: Mapping[str, str]) -> None:
    values = settings["label_values"]
    image, label = sources.read_case(case, None if values is None else {int(k): v for k, v in values.items()})
    integrity.check_case(image, label, (str(case.image), str(case.label)), accepted=case.accept)
    upright_image, upright_label = geometry.to_ras(image), geometry.to_ras(label)
    prepared_image, prepared_label = prepare_volumes(upright_image, upright_label, settings)
    case_store.write_case(
        root,
        case.case_id,
        image=prepared_image,
        label=prepared_label,
        # the label may be stored in another axis order than the scan; the scan's is the native one
        native_label=geometry.from_ras(upright_label.array, image.grid),
        native=image.grid,
        sources=made_of,
        settings=settings,
    )


def _clean(root: pathlib.Path) -> None:
    """Makes the folder and removes the old index and what a killed run left half written."""
    (root / "cases").mkdir(parents=True, exist_ok=True)
    (root / "index.json").unlink(missing_ok=True)
    for leftover in (root / "cases").glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _report(root: pathlib.Path, rejected: list[dict[str, str]]) -> None:
    if rejected:
        atomic.write_json(root / "rejected.json", rejected)
    else:
        (root / "rejected.json").unlink(missing_ok=True)


def _summary(rejected: list[dict[str, str]], cases: int, root: pathlib.Path) -> str:
    listed = "\n".join(f"  {r['case_id']}: {r['problem']}" for r in rejected)
    return f"{len(rejected)} of {cases} cases refused (also in {root / 'rejected.json'}):\n{listed}"
