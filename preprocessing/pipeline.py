"""From a manifest to a case store: every case checked, oriented, resampled and windowed; resumable, one bad case stops no other."""

from __future__ import annotations

import concurrent.futures
import hashlib
import multiprocessing
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from preprocessing import case_store, geometry, integrity, intensity, nifti, resampling, splits
from preprocessing.case_store import CaseStore
from preprocessing.manifest import Case, Manifest
from runkit import atomic, progress

REJECTED = "rejected.json"


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
    """Prepares every labelled case of a manifest and splits those that passed.

    A case whose files and settings are those of an earlier run is not prepared again. What is wrong with refused cases goes to
    `rejected.json` in `root`, with file names: it is for the site's own eyes.

    Args:
      manifest: the site's cases.
      root: the case store's folder.
      target_mm: spacing of the training grid along x, y, z.
      window_hu: lowest and highest HU, mapped to -1 and 1.
      split_seed, split_counts, split_ratio: as for `splits.split_cases`.
      workers: processes.
      strict: raise at the end if any case was refused; the store then has no index and cannot be opened.
    Raises:
      ValueError: for a split that does not fit, no usable case, or, where strict, any refused case.
    """
    root = pathlib.Path(root)
    settings = {"target_mm": [float(mm) for mm in target_mm], "window_hu": [float(hu) for hu in window_hu]}
    labelled = [case for case in manifest.cases if case.label is not None]
    if not labelled:
        raise ValueError(f"the manifest of site {manifest.site} has no case with a label; training and evaluation need labels")
    if split_counts is not None:  # before the work, not after it
        splits.split_cases([case.case_id for case in labelled], seed=split_seed, counts=split_counts)
    (root / case_store.INDEX).unlink(missing_ok=True)
    rejected: dict[str, str] = {}
    jobs = [(case, root, settings, manifest.label_values) for case in labelled]
    with progress.bar(total=len(jobs), what=f"prepare {manifest.site}", unit="case") as bar:
        for case_id, reason in _results(jobs, workers):
            if reason is not None:
                rejected[case_id] = reason
            bar.update()
    if rejected:
        atomic.write_json(root / REJECTED, {case.case_id: rejected[case.case_id] for case in labelled if case.case_id in rejected})
    else:
        (root / REJECTED).unlink(missing_ok=True)
    if rejected and (strict or len(rejected) == len(labelled)):
        listed = "\n  ".join(rejected.values())
        raise ValueError(
            f"{len(rejected)} of {len(labelled)} cases were refused (list: {root / REJECTED}); mend them, or go on without them by --nostrict:\n  {listed}"
        )
    ready = [case.case_id for case in labelled if case.case_id not in rejected]
    chosen = splits.split_cases(ready, seed=split_seed, counts=split_counts, ratio=split_ratio)
    numbers = {case_id: number for number, case_id in enumerate(sorted(ready), start=1)}
    settings = {**settings, "split_seed": split_seed}
    case_store.write_index(root, site=manifest.site, settings=settings, numbers=numbers, splits=chosen)
    return CaseStore(root)


def _results(jobs: list[tuple], workers: int):
    if workers <= 1:
        yield from (_prepare_case(*job) for job in jobs)
        return
    # spawn: a forked child of a process that runs TensorFlow can hang on a lock held at the fork
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in concurrent.futures.as_completed([pool.submit(_prepare_case, *job) for job in jobs]):
            yield future.result()


def _prepare_case(case: Case, root: pathlib.Path, settings: dict[str, Any], label_values: dict[int, int] | None) -> tuple[str, str | None]:
    """Prepares one case; returns its id and, where it is refused, the reason."""
    try:
        identity = {
            "source": _fingerprint(case),
            "settings": settings,
            "label_values": label_values and {str(k): v for k, v in label_values.items()},
        }
        known = case_store.stored_facts(root, case.case_id)
        if known is None or any(known.get(key) != value for key, value in identity.items()):
            image, label = nifti.read_ct(case.image), nifti.read_labels(case.label, label_values)
            integrity.check_case(image, label, integrity.Names(str(case.image), str(case.label)))
            upright, spacing = geometry.to_ras(image), geometry.ras_grid(image.grid).spacing_mm
            resampled = resampling.resample_linear(upright.array, spacing, settings["target_mm"])
            mask = resampling.resample_nearest(geometry.to_ras(label).array, spacing, settings["target_mm"])
            facts = {
                **identity,
                "target_mm": settings["target_mm"],
                "native_shape": [int(n) for n in image.shape],
                "native_affine": image.affine.tolist(),
            }
            case_store.write_case(root, case.case_id, intensity.window(resampled, *settings["window_hu"]), mask, label.array, facts)
    except ValueError as error:
        return case.case_id, str(error)
    return case.case_id, None


def _fingerprint(case: Case) -> str:
    """Returns a digest of both files' bytes. Raises ValueError where one is missing."""
    digest = hashlib.sha256()
    for path in (case.image, case.label):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; correct its path in the manifest")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
