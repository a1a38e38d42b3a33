"""Builds two sites from deformed copies of a few real CTs of healthy pancreases.

C2's copies get a painted tumour. A source is a patient: given enough sources, all its copies are in
the same split at both sites. Copies of one source are not independent; each case in a written
manifest therefore has a `source`, a number from 1 that says which copies belong together (in the
order of the sources' ids) and names no patient.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from preprocessing import (
    budget,
    declared_labels,
    geometry,
    manifest,
    nifti,
    rules,
    sources,
    splits,
)
from preprocessing.case_list import Case, CaseManifest
from preprocessing.deformed import deformation, tumour_insertion
from preprocessing.deformed.config import SITES, DeformedConfig
from preprocessing.phantom.tumour import Tumours
from preprocessing.volume import Volume
from runkit import atomic, progress, workers
from runkit.randomness import generator

_VERSION = 1  # version of the procedure; part of every key
TUMOURS = Tumours()
# A tumour takes at most half of its organ, and a deformation may halve the organ.
LEAST_ML = 4 * TUMOURS.volume_ml[0]
_CT_RANGE = (-1024, 3071)
_SECONDS_PER_VOXEL, _BYTES_PER_VOXEL, _DISK_PER_VOXEL = 1.0e-6, 26, 1.5  # measured on one core
_PROCESS_BYTES = 150 * 2**20


@dataclasses.dataclass(frozen=True)
class Copy:
    """One case to make from `source`; `index` counts the cases of its site from 0."""

    site: str
    index: int
    split: str
    source: str

    @property
    def case_id(self) -> str:
        """The case's id, e.g. "C1_0001"."""
        return f"{self.site}_{self.index + 1:04d}"


def share_out(source_ids: Sequence[str], seed: int) -> dict[str, dict[str, tuple[str, ...]]]:
    """Returns site -> split -> sources.

    Three or more sources are split 60/20/20, with at least one in each split. Of two sources, one
    is for testing and the other for training and validation; a single source is in all splits. If a
    split has several sources, they are dealt alternately to the two sites; otherwise both use the
    same one.
    """
    ids = sorted(source_ids)
    if len(ids) >= 3:
        own = splits.split_cases(ids, seed=seed)
    else:
        order = [
            ids[i] for i in generator(seed, "deformed", _VERSION, "split").permutation(len(ids))
        ]
        own = {"training": (order[0],), "validation": (order[0],), "test": (order[-1],)}
    dealt: dict[str, dict[str, tuple[str, ...]]] = {site: {} for site in SITES}
    for split, members in own.items():
        order = [
            members[i]
            for i in generator(seed, "deformed", _VERSION, "sites", split).permutation(len(members))
        ]
        for number, site in enumerate(SITES):
            dealt[site][split] = tuple(
                sorted(order[number :: len(SITES)] if len(order) > 1 else order)
            )
    return dealt


def list_copies(source_ids: Sequence[str], config: DeformedConfig) -> list[Copy]:
    """Returns all cases to make; the sources of a split are used in turn."""
    dealt = share_out(source_ids, config.seed)
    copies = []
    for site in SITES:
        index = 0
        for split, count in zip(splits.SPLITS, config.counts[site], strict=True):
            own = dealt[site][split]
            for number in range(count):
                copies.append(Copy(site, index, split, own[number % len(own)]))
                index += 1
    return copies


def notes(source_ids: Sequence[str], config: DeformedConfig) -> list[str]:
    """Returns the notes that must accompany results on this cohort."""
    patients, cases = len(set(source_ids)), sum(map(sum, config.counts.values()))
    found = [
        f"Data: {cases} deformed copies of {patients} real CT{'s' if patients > 1 else ''}, C2's "
        "with a painted tumour. Copies of one patient are not independent: intervals and tests "
        "that count cases are too narrow."
    ]
    if patients == 1:
        found.append(
            "WARNING: there is ONE source patient. Training and test are copies of the same "
            "person, so the results only show that the programs run on a real scan; they say "
            "nothing about other patients. Provide at least three CTs, better ten."
        )
    elif patients == 2:
        found.append(
            "WARNING: there are two source patients. Models are selected on the patient that they "
            "were trained on; provide at least three CTs."
        )
    dealt = share_out(source_ids, config.seed)
    shared = [split for split in splits.SPLITS if set(dealt["C1"][split]) & set(dealt["C2"][split])]
    if shared and patients > 1:
        found.append(
            f"Both sites have copies of the same patients in {', '.join(shared)}: there are too "
            "few sources for separate ones."
        )
    return found


@dataclasses.dataclass(frozen=True)
class Need:
    """The time, memory and disk that the copies need, estimated from the sources' headers."""

    seconds: float
    memory_bytes: int
    disk_bytes: int

    def __str__(self) -> str:
        time = (
            f"{self.seconds / 60:.0f} minutes"
            if self.seconds < 7200
            else f"{self.seconds / 3600:.0f} hours"
        )
        return (
            f"about {time}, {self.memory_bytes / 1e9:.1f} GB of memory, "
            f"{self.disk_bytes / 1e9:.2f} GB of disk"
        )


def need(listed: CaseManifest, config: DeformedConfig, workers_count: int) -> Need:
    """Returns the resources that `generate` needs for a new cohort.

    Sources with unreadable headers are not counted; `check_sources` refuses them.
    """
    voxels = {}
    for case in listed.included:
        found = budget.case_need(case, (3.0, 3.0, 3.0)) if case.label is not None else None
        voxels[case.case_id] = found.native_voxels if found else 0
    together = (
        sum(voxels[copy.source] for copy in list_copies(sorted(voxels), config)) if voxels else 0
    )
    at_once = min(max(workers_count, 1), sum(map(sum, config.counts.values())))
    return Need(
        together * _SECONDS_PER_VOXEL / at_once,
        at_once * (_PROCESS_BYTES + _BYTES_PER_VOXEL * max(voxels.values(), default=0)),
        int(together * _DISK_PER_VOXEL),
    )


def check_sources(listed: CaseManifest, path: str | os.PathLike) -> dict[str, str]:
    """Reads every source once; returns source -> remark for the sources that need one.

    Args:
      path: the manifest's file, for the error message.
    Raises:
      ValueError: naming the manifest and every source that cannot be used, with reason and remedy.
    """
    problems, remarks = [], {}
    for case in listed.included:
        try:
            ct, organ = _read(case, listed.label_values)
            found = tumour_insertion.measure(ct.array, organ, ct.spacing_mm)
            if found.volume_ml < LEAST_ML:
                raise ValueError(
                    f"its pancreas measures {found.volume_ml:.1f} ml, too little for a tumour of "
                    f"{TUMOURS.volume_ml[0]:g} ml in every copy, which needs {LEAST_ML:g} ml; "
                    "check the mask, or leave the case out"
                )
            if found.level_hu < TUMOURS.below_organ_hu[1]:
                remarks[case.case_id] = (
                    f"the pancreas has {found.level_hu:.0f} HU, perhaps because it is fatty or "
                    "the scan lacks contrast medium; tumours are not made darker than water, so "
                    "many will be iso-dense or hard to see"
                )
        except (ValueError, OSError) as error:
            problems.append(f"{case.case_id}: {error}")
    if not listed.included:
        problems.append("all its cases are excluded")
    if problems:
        raise ValueError(f"{path}: cannot be used as a list of sources: " + "; ".join(problems))
    return remarks


def generate(
    listed: CaseManifest,
    config: DeformedConfig,
    folder: str | os.PathLike,
    *,
    workers_count: int = 1,
) -> dict[str, pathlib.Path]:
    """Writes the cohort into `folder`; returns the path of each site's manifest.

    <folder>/<site>/ receives images/, labels/, manifest.json and split.json; <folder>/cohort.json
    records the settings and which copy has which source. Existing cases are kept, so an interrupted
    run resumes. No other process may write to `folder` at the same time.

    Raises:
      ValueError: if `folder` holds a cohort with other sources or settings.
    """
    folder = pathlib.Path(folder)
    by_id = {case.case_id: case for case in listed.included}
    copies = list_copies(sorted(by_id), config)
    _claim(listed, config, copies, folder)
    names = f"{atomic.PARTIAL}*"
    for pattern in (names, *(f"{site}/**/{names}" for site in SITES)):
        for leftover in folder.glob(pattern):  # a kill left it half-written
            leftover.unlink()
    jobs = [
        (by_id[c.source], listed.label_values, config.seed, c, folder)
        for c in copies
        if not all(p.exists() for p in _files(folder, c))
    ]
    with progress.bar(
        total=len(copies), initial=len(copies) - len(jobs), what="deformed copies", unit="case"
    ) as bar:
        for number, done in workers.results(_make, jobs, workers_count):
            if done is None:
                raise ValueError(
                    f"{jobs[number][3].case_id}: its process was killed, perhaps for lack of "
                    "memory; use fewer workers"
                )
            bar.update()
    found = {}
    numbers = {source: number for number, source in enumerate(sorted(by_id), start=1)}
    for site in SITES:
        own = [copy for copy in copies if copy.site == site]
        cases = tuple(Case(copy.case_id, *_files(folder, copy)) for copy in own)
        tumour = declared_labels.ABSENT if site == "C1" else declared_labels.COMPLETE
        declared = {"pancreas": declared_labels.COMPLETE, "tumour": tumour}
        description = f"deformed copies of {len(by_id)} real CT, seed {config.seed}"
        atomic.write_json(
            folder / site / "split.json",
            {split: [c.case_id for c in own if c.split == split] for split in splits.SPLITS},
        )
        found[site] = folder / site / "manifest.json"
        manifest.write(found[site], CaseManifest(site, cases, description, declared=declared))
        _add_sources(found[site], {copy.case_id: numbers[copy.source] for copy in own})
    return found


def _add_sources(path: pathlib.Path, source_of: Mapping[str, int]) -> None:
    """Adds `source` to each case of a written manifest; `manifest.read` ignores it."""
    value = atomic.read_json(path)
    for entry in value["cases"]:
        entry["source"] = source_of[entry["case_id"]]
    atomic.write_json(path, value)


def render_copy(ct: Volume, organ: np.ndarray, seed: int, copy: Copy) -> tuple[Volume, Volume]:
    """Returns the CT (int16) and labels (uint8) of a copy.

    They depend only on the source, the seed, the site and the index.

    Args:
      ct: the source's CT, in RAS+ order.
      organ: bool, the source's pancreas on the same grid.
    """

    def rng(what: str) -> np.random.Generator:
        return generator(seed, "deformed", _VERSION, copy.site, copy.index, what)

    field = deformation.draw(ct.shape, ct.spacing_mm, rng("field"))
    array = np.clip(np.rint(ct.array), *_CT_RANGE).astype(np.int16)
    array, deformed = deformation.warp(array, field), deformation.warp(organ, field, mask=True)
    if copy.site == "C1":
        return Volume(array, ct.affine), Volume(deformed.astype(np.uint8), ct.affine)
    array, labels = tumour_insertion.insert(array, deformed, ct.spacing_mm, TUMOURS, rng("tumour"))
    return Volume(array, ct.affine), Volume(labels, ct.affine)


def _make(
    case: Case, label_values: Mapping[int, int] | None, seed: int, copy: Copy, folder: pathlib.Path
) -> bool:
    image, label = _files(folder, copy)
    ct, labels = render_copy(*_read(case, label_values), seed, copy)
    nifti.write_volume(image, ct)
    nifti.write_volume(label, labels)
    return True


def _read(case: Case, label_values: Mapping[int, int] | None) -> tuple[Volume, np.ndarray]:
    """Returns a source's CT in RAS+ order and its pancreas, bool, on the same grid.

    Raises:
      ValueError: with the remedy, if the case cannot be a source.
    """
    if case.label is None:
        raise ValueError(
            'has no mask; name the file of its organ mask under "label", or leave the case out'
        )
    ct, labels = sources.read_case(case, label_values)
    if not _on_one_grid(ct, labels):
        ct, labels = geometry.to_ras(ct), geometry.to_ras(labels)
        if not _on_one_grid(ct, labels):
            raise ValueError(
                f"its mask of {labels.shape} voxels does not lie on the CT's grid of {ct.shape}; "
                "export it on the CT's grid"
            )
    ct, labels = geometry.to_ras(ct), geometry.to_ras(labels)
    values = np.unique(labels.array)
    if 1 not in values:
        raise ValueError(
            "its mask has no pancreas; state its value in the manifest, "
            'e.g. "label_values": {"7": 1}'
        )
    if 2 in values:
        raise ValueError(
            "its mask has a tumour; sources must have a healthy pancreas, so leave the case out"
        )
    return Volume(np.ascontiguousarray(ct.array), ct.affine), np.ascontiguousarray(
        labels.array
    ) == 1


def _on_one_grid(ct: Volume, labels: Volume) -> bool:
    return ct.shape == labels.shape and geometry.corner_displacement_mm(
        ct.grid, labels.grid
    ) <= rules.MISPLACED_VOXELS * min(ct.spacing_mm)


def _files(folder: pathlib.Path, copy: Copy) -> tuple[pathlib.Path, pathlib.Path]:
    name = f"{copy.case_id}.nii.gz"
    return folder / copy.site / "images" / name, folder / copy.site / "labels" / name


def _claim(
    listed: CaseManifest, config: DeformedConfig, copies: Sequence[Copy], folder: pathlib.Path
) -> None:
    """Writes cohort.json, or checks that an existing one has the same sources and settings."""
    wanted = {
        "version": _VERSION,
        "seed": config.seed,
        "counts": {site: list(own) for site, own in config.counts.items()},
        "label_values": {str(k): v for k, v in (listed.label_values or {}).items()},
        "sources": {case.case_id: sources.digests(case) for case in listed.included},
        "copies": {copy.case_id: [copy.split, copy.source] for copy in copies},
        "notes": notes([case.case_id for case in listed.included], config),
    }
    path = folder / "cohort.json"
    if not path.exists():
        if any((folder / site).exists() for site in SITES):
            raise ValueError(
                f"{folder}: holds {' or '.join(SITES)} but not a deformed cohort, which would "
                "replace them; choose another folder"
            )
        atomic.write_json(path, wanted)
        return
    found = atomic.read_object(path)
    differing = sorted(
        key for key in {*wanted, *found} - {"notes"} if found.get(key) != wanted.get(key)
    )
    if differing:
        raise ValueError(
            f"{path}: holds a cohort with other {', '.join(differing)}; choose another folder, "
            f"or delete {folder}"
        )
