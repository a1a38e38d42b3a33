"""Estimates from the files' headers the memory, disk space and time that a preparation needs."""

from __future__ import annotations

import dataclasses
import heapq
import math
import pathlib
import time
from collections.abc import Iterable, Sequence

import numpy as np
import psutil
from isal import igzip

from preprocessing import dicom, geometry, nifti, resampling, rules
from preprocessing.case_list import Case
from preprocessing.volume import Grid, Volume
from runkit import byte_counts, processors

_MARGIN = 1.1
_USUAL_DENSITY = 32  # largest usual ratio of compression of a CT
_SLABS_BYTES = 48 * 2**20  # slabs in progress, growth of the interpreter, reserve of the allocator
_DICOM_SLICE = (512, 512)  # assumed for every file of a series, whose headers are not read
_DISK_BYTES_PER_S = 300e6  # assumed; all other figures are computed or measured
_WORKER_BYTES = 400 * 2**20  # at most, for the imports of a fresh process
_START_S = 1.5  # time until worker processes have finished their imports
_SAMPLE = (256, 256, 48)


@dataclasses.dataclass(frozen=True)
class CaseNeed:
    """The resources that one case needs.

    Attributes:
      native_voxels: number of voxels of the scan on its own grid.
      prepared_voxels: number of voxels of the scan on the training grid.
      read_bytes: size of its files.
      memory_bytes: peak memory during preparation, beyond that of an idle process.
      disk_bytes: size of its folder in the case store.
    """

    native_voxels: int
    prepared_voxels: int
    read_bytes: int
    memory_bytes: int
    disk_bytes: int


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds of one processor per voxel, measured on this machine."""

    per_native_voxel: float
    per_prepared_voxel: float

    def seconds(self, need: CaseNeed) -> float:
        return (
            self.per_native_voxel * need.native_voxels
            + self.per_prepared_voxel * need.prepared_voxels
            + need.disk_bytes / _DISK_BYTES_PER_S
        )


@dataclasses.dataclass(frozen=True)
class Budget:
    """The resources that a whole preparation needs.

    Attributes:
      cases: number of cases to prepare.
      done: number of cases that an earlier run has prepared.
      unreadable: number of cases to prepare whose headers cannot be read or used.
      workers: number of cases prepared at the same time.
      memory_bytes: peak of all processes together. The run stays below it.
      disk_bytes: growth of the case store.
      seconds: approximate duration.
    """

    cases: int
    done: int
    unreadable: int
    workers: int
    memory_bytes: int
    disk_bytes: int
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"cases:  {self.cases} to prepare, {self.done} done before, {self.workers} at a time",
            f"memory: at most {byte_counts.text(self.memory_bytes)} over all processes",
            f"disk:   {byte_counts.text(self.disk_bytes)} in the case store",
            f"time:   about {_duration(self.seconds)}",
        ]
        if self.unreadable:
            lines.append(
                f"{self.unreadable} of them will be refused: their headers cannot be read or break "
                "a rule"
            )
        return "\n".join(lines)


def case_need(case: Case, target_mm: Sequence[float]) -> CaseNeed | None:
    """Returns the resources that a labelled case needs.

    None if its headers cannot be read or used: such a case is refused before it is processed.
    """
    try:
        label = case.required_label
        label_grid, label_type, label_scaled = nifti.stored_form(
            label, ignore_place=case.label_turn is not None, orientation=case.orientation
        )
        label_file = label.stat().st_size
        low, high = rules.SPACING_MM
        if dicom.is_series(case.image):
            grid, image_bytes, read_bytes = _dicom_form(case.image, label)
        else:
            grid, dtype, scaled = nifti.stored_form(case.image, orientation=case.orientation)
            image_bytes = dtype.itemsize + (
                0 if dtype.kind == "i" and dtype.itemsize == 2 and not scaled else 4
            )
            read_bytes = case.image.stat().st_size
            if not _is_whole(case.image, grid, dtype, label_grid):
                return None
        if not all(low <= length <= high for length in grid.spacing_mm):
            return None
    except Exception:  # reported when the case is read
        return None
    upright = geometry.ras_grid(grid)
    prepared = resampling.resampled_shape(upright.shape, upright.spacing_mm, target_mm)
    native_voxels, prepared_voxels = math.prod(grid.shape), math.prod(prepared)
    planes = 4 * _planes_voxels(grid, upright, prepared)
    plain_label = label_type.itemsize == 1 and not label_scaled
    label_bytes = math.prod(label_grid.shape) * (1 if plain_label else 2 * label_type.itemsize + 6)
    stages = (
        label_bytes + native_voxels * image_bytes,  # both are read at the same time
        native_voxels * (image_bytes + 1) + math.prod(label_grid.shape) + planes,  # resampling
    )
    memory = int(max(stages) * _MARGIN) + _SLABS_BYTES
    return CaseNeed(
        native_voxels, prepared_voxels, read_bytes + label_file, memory, 3 * prepared_voxels
    )


def _is_whole(image: pathlib.Path, grid: Grid, dtype: np.dtype, label_grid: Grid) -> bool:
    """Returns whether the scan and the label can be as large as their headers declare.

    A wrong number in one header must not stop the whole cohort by inflating its memory estimate.
    """
    if math.prod(grid.shape) != math.prod(label_grid.shape):
        return False
    declared = math.prod(grid.shape) * dtype.itemsize
    return declared <= _USUAL_DENSITY * image.stat().st_size or nifti.holds_its_voxels(image)


def choose_workers(cases: int, wanted: int) -> int:
    """Returns how many cases to prepare at a time; `wanted` 0 means one per processor."""
    return max(1, min(cases, wanted or processors.available()))


def cohort_budget(
    needs: Iterable[CaseNeed | None], *, done: int, workers: int, limit_bytes: int, speed: Speed
) -> Budget:
    """Returns the budget of a cohort.

    Args:
      needs: resources of the cases that are not done.
      limit_bytes: memory limit; cases wait rather than exceed it.
    Raises:
      ValueError: if a single case needs more than the limit.
    """
    needs = list(needs)
    known = [need for need in needs if need is not None]
    idle = idle_bytes(workers)
    largest = max((need.memory_bytes for need in known), default=0)
    if idle + largest > limit_bytes:
        raise ValueError(
            f"memory is limited to {limit_bytes / 1e9:.1f} GB, but the largest case alone needs "
            f"{(idle + largest) / 1e9:.1f} GB with {workers} workers; "
            "raise the limit, prepare fewer cases at a time, or choose a coarser spacing"
        )
    together = idle + sum(heapq.nlargest(workers, (need.memory_bytes for need in known)))
    at_once = min(workers, processors.available())
    seconds = sum(speed.seconds(need) for need in known) / at_once + (
        _START_S if workers > 1 else 0.0
    )
    return Budget(
        len(needs),
        done,
        len(needs) - len(known),
        workers,
        min(together, limit_bytes),
        sum(need.disk_bytes for need in known),
        seconds,
    )


def idle_bytes(workers: int) -> int:
    """Returns the memory of this process and, for more than one worker, of the worker processes."""
    own = psutil.Process().memory_info().rss
    return own if workers == 1 else own + workers * min(own, _WORKER_BYTES)


def default_limit_bytes() -> int:
    """Returns four fifths of the memory that is currently free."""
    return int(0.8 * psutil.virtual_memory().available)


def measure_speed() -> Speed:
    """Measures decompression and resampling on a small volume of noise. Takes about 0.1 s."""
    voxels = np.random.default_rng(0).normal(0, 20, _SAMPLE).astype(np.int16)
    packed = igzip.compress(voxels.tobytes(), 1)
    start = time.perf_counter()
    igzip.decompress(packed)
    read = time.perf_counter()
    prepared = 0
    scan = Volume(np.asfortranarray(voxels), np.diag([0.7, 0.7, 1.0, 1.0]))
    for slab in resampling.windowed_slabs(scan, (1.0, 1.0, 1.0), (-200.0, 250.0)):
        prepared += slab.size
    end = time.perf_counter()
    # per native voxel, checks and labels take a quarter of the time of decompression
    return Speed(1.25 * (read - start) / voxels.size, (end - read) / prepared)


def _planes_voxels(grid: Grid, upright: Grid, prepared: Sequence[int]) -> int:
    # `separable.slabs` holds planes across the slowest axis of the file, which is the last one
    axis = geometry.turn_to_ras(grid.affine).axes.index(2)
    return min(prepared[axis], upright.shape[axis]) * math.prod(
        n for i, n in enumerate(prepared) if i != axis
    )


def _dicom_form(image: pathlib.Path, label: pathlib.Path) -> tuple[Grid, int, int]:
    """Returns the estimated grid of a series, bytes per voxel in memory, and bytes of its files."""
    label_grid, _, _ = nifti.stored_form(label)
    affine = np.diag([*label_grid.spacing_mm, 1.0])
    if not image.is_dir():  # a zip or a multi-frame file: assume as many voxels as in its label
        return Grid(label_grid.shape, affine), 6, image.stat().st_size
    sizes = [path.stat().st_size for path in dicom.files_in(image)]
    return Grid((*_DICOM_SLICE, max(2, len(sizes))), affine), 6, sum(sizes)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
