"""Synthetic cohorts of two hospitals: CT volumes and labels as NIfTI files, with a manifest."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from preprocessing import budget, declared_labels, manifest, nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.phantom.config import SLICE_MM, CohortConfig
from preprocessing.phantom.hospital import PHANTOMS, Site, draw_patient
from preprocessing.phantom.pancreas import paint_pancreas
from preprocessing.phantom.scanner import Acquisition, scan
from preprocessing.phantom.space import Canvas, Pose, Space
from preprocessing.phantom.torso import paint_torso
from preprocessing.phantom.viscera import (
    paint_colon,
    paint_duodenum_and_gallbladder,
    paint_great_vessels,
    paint_kidneys,
    paint_liver_and_spleen,
    paint_small_bowel,
    paint_stomach,
)
from preprocessing.volume import Volume
from runkit import atomic, processors, progress
from runkit import workers as processes
from runkit.randomness import generator

# Version of the anatomy. It is part of every random key, so each version has patients that nobody
# saw while an earlier version was developed.
_VERSION = 3
_PROCESS_BYTES = 128 * 2**20  # see `case_bytes`
_BYTES_PER_VOXEL = 12.0
_GRID_MM = 2.0  # spacing of the grid on which the anatomy is painted
_C2_THIN, _C2_ALL = 40, 486  # C2's volumes with 1 mm slices, and all its volumes


def case_id(config: CohortConfig, index: int) -> str:
    """Returns the id of case `index` (from 0), e.g. "C1_0001"."""
    return f"{config.site}_{index + 1:04d}"


def spacing_mm(config: CohortConfig, index: int) -> tuple[float, float, float]:
    """Returns the native spacing of case `index` (from 0).

    C1: uniform in plane between 0.58 and 0.98 mm, slices by `config.spacings`. C2: 0.68 mm in
    plane; slices of 5 mm and 1 mm at 446:40, spread evenly: of the first n cases, round(40 n / 486)
    have thin slices.
    """
    rng = _generator(config, index, "spacing")
    in_plane, thickness = rng.uniform(0.58, 0.98), rng.uniform(*SLICE_MM[config.spacings])
    if config.site == "C2":
        thin = _thin_until(index + 1) > _thin_until(index)
        in_plane, thickness = 0.68, 1.0 if thin else 5.0
    if config.in_plane_mm is not None:
        in_plane = rng.uniform(*config.in_plane_mm)
    if config.slice_mm is not None:
        thickness = rng.uniform(*config.slice_mm)
    return round(in_plane, 4), round(in_plane, 4), round(thickness, 4)


def _thin_until(cases: int) -> int:
    return (2 * _C2_THIN * cases + _C2_ALL) // (2 * _C2_ALL)


def render_case(config: CohortConfig, index: int) -> tuple[Volume, Volume]:
    """Returns CT (int16 HU) and labels (uint8: 1 pancreas, 2 tumour) of case `index`.

    The result depends only on the configuration and the index. C1 stores its voxels in LAS+ order
    and C2 in RAS+ order, because real hospitals differ in this as well.
    """

    def rng(what: str) -> np.random.Generator:
        return _generator(config, index, what)

    site = _site(config)
    patient = draw_patient(site, rng("patient"))
    lying = rng("pose")
    pose = Pose(
        lying.normal(0, 2.0),
        lying.uniform(0.95, 1.04),
        (lying.normal(0, 3), lying.normal(0, 3), lying.normal(0, 5)),
    )
    acquisition = _acquisition(config, index, rng("scanner"))
    lower = np.array([acquisition.centres(a)[0] for a in range(3)])
    upper = np.array([acquisition.centres(a)[-1] for a in range(3)])
    half_slice = np.array([0.0, 0.0, acquisition.spacing_mm[2] / 2])
    space = Space(lower - half_slice, upper + half_slice, _GRID_MM, pose, 3.0, rng("deformation"))
    canvas = Canvas(space, -1000.0)
    torso = paint_torso(canvas, patient, rng("torso"))
    paint_great_vessels(canvas, patient, rng("vessels"))
    paint_kidneys(canvas, patient, rng("kidneys"))
    paint_stomach(canvas, patient, torso, rng("stomach"))
    paint_duodenum_and_gallbladder(canvas, patient, rng("duodenum"))
    target = paint_pancreas(canvas, patient, rng("pancreas"))
    paint_liver_and_spleen(canvas, patient, torso, rng("liver"))
    paint_colon(canvas, patient, torso, rng("colon"))
    paint_small_bowel(canvas, patient, torso, rng("bowel"))
    ct, labels = scan(space, canvas.hu, torso.body, target, acquisition, rng("noise"))
    affine = np.diag([*acquisition.spacing_mm, 1.0])
    affine[:3, 3] = acquisition.first_mm
    if config.site == "C1":
        ct, labels = np.asfortranarray(ct[::-1]), np.asfortranarray(labels[::-1])
        affine[0, 3] = acquisition.centres(0)[-1]
        affine[0, 0] = -affine[0, 0]
    return Volume(ct, affine), Volume(labels, affine)


def _site(config: CohortConfig) -> Site:
    return PHANTOMS[config.phantom][config.site]


def _generator(config: CohortConfig, index: int, what: str) -> np.random.Generator:
    # The standard phantom keeps its original keys, without a name, from before there was a second.
    kind = () if config.phantom == "standard" else (config.phantom,)
    return generator(config.seed, "phantom", _VERSION, *kind, config.site, index, what)


def _acquisition(config: CohortConfig, index: int, rng: np.random.Generator) -> Acquisition:
    site, spacing = _site(config), spacing_mm(config, index)
    extent = np.array(config.field_of_view_mm) * (1.0, 1.0, rng.uniform(0.95, 1.06))
    nx, ny, nz = (round(e / s) for e, s in zip(extent, spacing, strict=True))
    shape = (nx, ny, nz)
    # centre of the field of view, in patient coordinates: the pancreas is within the slices
    middle = (0.0, 42.0, 0.0)
    x, y, z = (
        round(m - (n - 1) * s / 2, 4) for m, n, s in zip(middle, shape, spacing, strict=True)
    )
    # Thick slices average the noise, but less than expected, since their dose is lower.
    noise = rng.uniform(*site.noise_hu) * (1.0 / max(spacing[2], 0.6)) ** 0.4
    return Acquisition(shape, spacing, (x, y, z), noise, site.noise_passes, site.kernel_mm)


def case_bytes(config: CohortConfig, index: int) -> int:
    """Estimates the memory of a process that makes case `index` (from 0).

    Measured: 465 MiB for a case of 34 million voxels, 102 MiB of which before it begins.
    """
    voxels = math.prod(
        length / spacing
        for length, spacing in zip(config.field_of_view_mm, spacing_mm(config, index), strict=True)
    )
    return _PROCESS_BYTES + int(_BYTES_PER_VOXEL * voxels)


def fitting_workers(
    config: CohortConfig, cases: Sequence[int], wanted: int, limit_bytes: int
) -> int:
    """Returns how many cases to make at the same time.

    Args:
      cases: indices of the cases to make.
      wanted: the largest number; 0 means the number of processors that this process may use.
      limit_bytes: memory for all workers together. One worker is always allowed.
    """
    largest = max((case_bytes(config, index) for index in cases), default=1)
    return max(1, min(wanted or processors.available(), limit_bytes // largest, len(cases)))


def generate_cohort(
    config: CohortConfig, folder: str | os.PathLike, *, workers: int = 1
) -> pathlib.Path:
    """Writes images/, labels/, manifest.json and cohort.json; returns the manifest's path.

    Existing cases are kept, so an interrupted run resumes. The same configuration gives the same
    bytes on the same machine with the same NumPy; another NumPy version may round single voxels of
    the CT differently, by 1 HU.

    Args:
      workers: largest number of cases to make at the same time, each in its own process; 0 means
        the number of processors. There are fewer if they need over four fifths of the free memory.
    Raises:
      ValueError: if `workers` is below 0, or if `folder` holds a cohort with another configuration.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}; expected at least 1, or 0 for one per processor")
    folder = pathlib.Path(folder)
    _claim(config, folder)
    missing = [
        i for i in range(config.cases) if not all(p.exists() for p in _files(config, folder, i))
    ]
    done = config.cases - len(missing)
    with progress.bar(
        total=config.cases, initial=done, what=f"synthetic {config.site}", unit="case"
    ) as bar:
        at_once = fitting_workers(config, missing, workers, budget.default_limit_bytes())
        if at_once > 1:
            with processes.pool(at_once) as pool:
                for future in concurrent.futures.as_completed(
                    [pool.submit(_make_case, config, folder, i) for i in missing]
                ):
                    future.result()
                    bar.update()
        else:
            for index in missing:
                _make_case(config, folder, index)
                bar.update()
    cases = tuple(Case(case_id(config, i), *_files(config, folder, i)) for i in range(config.cases))
    path = folder / "manifest.json"
    declared = {
        "pancreas": declared_labels.COMPLETE,
        "tumour": declared_labels.ABSENT if config.site == "C1" else declared_labels.COMPLETE,
    }
    kind = "" if config.phantom == "standard" else f"{config.phantom} "
    description = f"{kind}synthetic cohort {config.site}, seed {config.seed}"
    manifest.write(path, CaseManifest(config.site, cases, description, declared=declared))
    return path


def _files(
    config: CohortConfig, folder: pathlib.Path, index: int
) -> tuple[pathlib.Path, pathlib.Path]:
    name = f"{case_id(config, index)}.nii.gz"
    return folder / "images" / name, folder / "labels" / name


def _make_case(config: CohortConfig, folder: pathlib.Path, index: int) -> None:
    image, label = _files(config, folder, index)
    ct, labels = render_case(config, index)
    nifti.write_volume(image, ct)
    nifti.write_volume(label, labels)


def _claim(config: CohortConfig, folder: pathlib.Path) -> None:
    """Writes cohort.json, or checks that an existing one describes the same patients."""
    wanted = {
        "version": _VERSION,
        **{
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()
        },
    }
    if config.phantom == "standard":
        del wanted["phantom"]  # cohorts made before there was a second phantom lack it
    path = folder / "cohort.json"
    others = [name for name in ("manifest.json", "images", "labels") if (folder / name).exists()]
    if others and not path.exists():
        raise ValueError(
            f"{folder}: holds {', '.join(others)} but not a synthetic cohort, which would replace "
            "them; choose another folder"
        )
    if path.exists():
        found = atomic.read_object(path)
        differing = [
            f"{k} is {found.get(k)!r} there, not {wanted.get(k)!r}"
            for k in sorted({*found, *wanted} - {"cases"})
            if found.get(k) != wanted.get(k)
        ]
        if differing:
            raise ValueError(
                f"{path}: holds another cohort ({'; '.join(differing)}); "
                f"choose another folder or delete {folder}"
            )
    atomic.write_json(path, wanted)
