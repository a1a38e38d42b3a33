"""Makes two sites out of a few real CTs of healthy pancreases.

The cases are deformed copies of the CTs; those of site C2 have a tumour painted in. A source CT is
a patient: if there are enough sources, all its copies are in the same split at both sites.
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
    deformation,
    geometry,
    manifest,
    nifti,
    sources,
    splits,
    tumour_insertion,
)
from preprocessing.case_list import Case, CaseManifest
from preprocessing.checks import rules
from preprocessing.phantom.tumour import Tumours
from preprocessing.volume import Volume
from runkit import atomic, progress, workers
from runkit.randomness import generator

_VERSION = 1  # of the procedure; part of the key of every random generator
SITES = ("C1", "C2")
TUMOURS = Tumours()
_CT_RANGE = (-1024, 3071)
_SECONDS_PER_VOXEL, _BYTES_PER_VOXEL, _DISK_PER_VOXEL = 1.0e-6, 26, 1.5  # measured on one core
_PROCESS_BYTES = 150 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeformedConfig:
    """Which cases to make.

    Attributes:
      seed: determines the split of the sources and every copy.
      counts: site -> number of cases for training, validation and test.
    """

    seed: int
    counts: Mapping[str, tuple[int, int, int]]

    def __post_init__(self) -> None:
        if set(self.counts) != set(SITES):
            raise ValueError(
                f"counts are for {', '.join(self.counts)}; expected {' and '.join(SITES)}"
            )
        for site, own in self.counts.items():
            if len(own) != 3 or min(own) < 1:
                raise ValueError(
                    f"counts of {site} are {tuple(own)}; "
                    f"expected cases for {', '.join(splits.SPLITS)}, at least one each"
                )


@dataclasses.dataclass(frozen=True)
class Copy:
    """One case to make: the `index`-th of its site, from `source`."""

    site: str
    index: int
    split: str
    source: str

    @property
    def case_id(self) -> str:
        return f"{self.site}_{self.index + 1:04d}"


def share_out(source_ids: Sequence[str], seed: int) -> dict[str, dict[str, tuple[str, ...]]]:
    """Returns site -> split -> sources.

    With three sources or more, each is in one split only (60/20/20, at least one each). Of two, one
    is for test and the other for training and validation. A single source is in all splits. The
    sources of a split are dealt out to the two sites in turn; a single one is at both sites.
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


def plan(source_ids: Sequence[str], config: DeformedConfig) -> list[Copy]:
    """Returns every case to make. The sources of a split take turns."""
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
    """Returns what a reader of the results must know."""
    patients, cases = len(set(source_ids)), sum(map(sum, config.counts.values()))
    found = [
        f"Data: {cases} deformed copies of {patients} real CT{'s' if patients > 1 else ''}, "
        "C2's with a tumour painted in. Copies of one patient are not independent: "
        "intervals and tests that count cases are too narrow."
    ]
    if patients == 1:
        found.append(
            "WARNING: there is ONE source patient. Training and test are copies of the same "
            "person, so that these numbers show that the programs run on a real scan and nothing "
            "about other patients. Give at least three CTs, better ten."
        )
    elif patients == 2:
        found.append(
            "WARNING: there are two source patients. Validation chooses models on the patient that "
            "they were trained on; give at least three CTs."
        )
    dealt = share_out(source_ids, config.seed)
    shared = [split for split in splits.SPLITS if set(dealt["C1"][split]) & set(dealt["C2"][split])]
    if shared and patients > 1:
        found.append(
            f"Both sites have copies of the same patients in {', '.join(shared)}: "
            "too few sources to deal out."
        )
    return found


@dataclasses.dataclass(frozen=True)
class Need:
    """What making the copies needs, estimated from the headers of the sources."""

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
    """Returns what `generate` needs if no case exists yet.

    Sources whose headers cannot be read are not counted; `check_sources` refuses them.
    """
    voxels = {}
    for case in listed.included:
        found = budget.case_need(case, (3.0, 3.0, 3.0)) if case.label is not None else None
        voxels[case.case_id] = found.native_voxels if found else 0
    together = sum(voxels[copy.source] for copy in plan(sorted(voxels), config)) if voxels else 0
    at_once = min(workers_count, sum(map(sum, config.counts.values())))
    return Need(
        together * _SECONDS_PER_VOXEL / at_once,
        at_once * (_PROCESS_BYTES + _BYTES_PER_VOXEL * max(voxels.values(), default=0)),
        int(together * _DISK_PER_VOXEL),
    )


def check_sources(listed: CaseManifest, path: str | os.PathLike) -> dict[str, str]:
    """Reads every source once. Returns source -> remark for those that deserve one.

    Raises:
      ValueError: naming the manifest and every source that cannot be used, with the reason and the
          remedy.
    """
    problems: list[str] = []
    remarks: dict[str, str] = {}
    for case in listed.included:
        try:
            ct, organ = _read(case, listed.label_values)
            found = tumour_insertion.measure(ct.array, organ, ct.spacing_mm)
            if found.volume_ml < 2 * TUMOURS.volume_ml[0]:
                raise ValueError(
                    f"its pancreas has {found.volume_ml:.1f} ml, too little for a tumour of "
                    f"{TUMOURS.volume_ml[0]:g} ml; check the mask, or leave the case out"
                )
            if found.level_hu < TUMOURS.below_organ_hu[1]:
                remarks[case.case_id] = (
                    f"the pancreas has {found.level_hu:.0f} HU, as without contrast medium or full "
                    "of fat; a tumour is never darker than water, so that many will be hard to see "
                    "or iso-dense"
                )
        except (ValueError, OSError) as error:
            problems.append(f"{case.case_id}: {error}")
    if not listed.included:
        problems.append("it lists no case that is not excluded")
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
    """Writes the cohort and returns site -> manifest.

    The folder gets cohort.json and for each site a folder with images/, labels/, manifest.json and
    split.json. Cases that exist are not made again, so that a stopped run can be resumed.

    Raises:
      ValueError: if `folder` holds a cohort of other sources or settings.
    """
    folder = pathlib.Path(folder)
    by_id = {case.case_id: case for case in listed.included}
    copies = plan(sorted(by_id), config)
    _claim(listed, config, copies, folder)
    jobs = [
        (by_id[c.source], listed.label_values, config.seed, c, folder)
        for c in copies
        if not all(p.exists() for p in _files(folder, c))
    ]
    with progress.bar(
        total=len(copies), initial=len(copies) - len(jobs), what="deformed copies", unit="case"
    ) as bar:
        if workers_count > 1 and len(jobs) > 1:
            for number, done in workers.results(_make, jobs, workers_count):
                if done is None:
                    raise ValueError(
                        f"{jobs[number][3].case_id}: its process was killed, "
                        "perhaps for lack of memory; use fewer workers"
                    )
                bar.update()
        else:
            for job in jobs:
                _make(*job)
                bar.update()
    found = {}
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
    return found


def render(ct: Volume, organ: np.ndarray, seed: int, copy: Copy) -> tuple[Volume, Volume]:
    """Returns CT int16 and labels uint8 of a copy.

    They are a function of the source, the seed, and the site and index of the copy.

    Args:
      ct: of the source, in RAS+ order.
      organ: bool, on its grid.
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
    ct, labels = render(*_read(case, label_values), seed, copy)
    nifti.write_volume(image, ct, compress_level=1)
    nifti.write_volume(label, labels, compress_level=1)
    return True


def _read(case: Case, label_values: Mapping[int, int] | None) -> tuple[Volume, np.ndarray]:
    """Returns a source's CT in RAS+ order and its pancreas, bool, on the same grid.

    Raises:
      ValueError: with the remedy, if there is no mask of a healthy pancreas on the grid of the CT.
    """
    if case.label is None:
        raise ValueError(
            'has no mask; give the file of its organ mask under "label", or leave the case out'
        )
    ct, labels = map(geometry.to_ras, sources.read_case(case, label_values))
    if ct.shape != labels.shape or geometry.corner_displacement_mm(
        ct.grid, labels.grid
    ) > rules.MISPLACED_VOXELS * min(ct.spacing_mm):
        raise ValueError(
            f"mask of {labels.shape} voxels does not lie on the CT's grid of {ct.shape}; "
            "export it on the CT's grid"
        )
    values = np.unique(labels.array)
    if 1 not in values:
        raise ValueError(
            "its mask has no pancreas; say in the manifest which value it is, "
            'e.g. "label_values": {"7": 1}'
        )
    if 2 in values:
        raise ValueError(
            "its mask has a tumour; only healthy pancreases can be a source, so leave the case out"
        )
    organ = np.ascontiguousarray(labels.array) == 1
    return Volume(np.ascontiguousarray(ct.array), ct.affine), organ


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
                f"{folder}: holds {' or '.join(SITES)} but is not a deformed cohort, which would "
                "replace them; choose another folder"
            )
        atomic.write_json(path, wanted)
        return
    found = atomic.read_json(path)
    differing = sorted(
        key for key in {*wanted, *found} - {"notes"} if found.get(key) != wanted.get(key)
    )
    if differing:
        raise ValueError(
            f"{path}: holds a cohort with other {', '.join(differing)}; "
            f"choose another folder, or delete {folder}"
        )
