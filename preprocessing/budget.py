"""What a preparation will need, known from the files' headers before it starts: memory, disk, time."""

from __future__ import annotations

import dataclasses
import heapq
import math
import os
import time
from collections.abc import Iterable, Sequence

import numpy as np
import psutil
from isal import igzip

from preprocessing import dicom, geometry, intensity, nifti, resampling
from preprocessing.checks import rules
from preprocessing.manifest import Case
from preprocessing.volume import Grid

_MARGIN = 1.1
_USUAL_DENSITY = 32  # bytes of voxels per byte of a compressed CT, at most
_SLABS_BYTES = 48 * 2**20  # slabs under way, the interpreter's own growth, what the allocator keeps
_DICOM_SLICE = (512, 512)  # taken for every file of a series; its headers are not read beforehand
_DISK_BYTES_PER_S = 300e6  # assumed: the only figure that is not computed or measured
_WORKER_BYTES = (
    400 * 2**20
)  # more than this a fresh process does not take for what it has to import
_START_S = 1.5  # until worker processes have imported what they need
_SAMPLE = (256, 256, 48)


@dataclasses.dataclass(frozen=True)
class CaseNeed:
    """What one case needs.

    Attributes:
      native_voxels, prepared_voxels: of the scan, on its own and on the training grid.
      read_bytes: of its files.
      memory_bytes: highest demand while it is prepared, beyond an idle process.
      disk_bytes: of its folder in the case store.
    """

    native_voxels: int
    prepared_voxels: int
    read_bytes: int
    memory_bytes: int
    disk_bytes: int


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds of one processor, measured on this machine."""

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
    """What a preparation as a whole needs.

    Attributes:
      cases, done, unreadable: to prepare, prepared by an earlier run, and of those to prepare the
          ones whose header cannot be read.
      workers: cases at the same time.
      memory_bytes: highest demand of all processes together. The run keeps to it.
      disk_bytes: that the case store will grow by.
      seconds: about how long it takes.
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
            f"memory: at most {self.memory_bytes / 1e9:.1f} GB over all processes",
            f"disk:   {self.disk_bytes / 1e9:.1f} GB in the case store",
            f"time:   about {_duration(self.seconds)}",
        ]
        if self.unreadable:
            lines.append(f"{self.unreadable} of them have no readable header and will be refused")
        return "\n".join(lines)


def case_need(case: Case, target_mm: Sequence[float]) -> CaseNeed | None:
    """Returns what a labelled case needs, or None where its headers cannot be read: it will be
    refused before it needs anything.
    """
    try:
        if dicom.is_series(case.image):
            grid, image_bytes, read_bytes = _dicom_form(case)
        else:
            grid, dtype, scaled = nifti.stored_form(case.image, orientation=case.orientation)
            image_bytes = dtype.itemsize + (
                0 if dtype.kind == "i" and dtype.itemsize == 2 and not scaled else 4
            )
            read_bytes = case.image.stat().st_size
        label_grid, label_type, label_scaled = nifti.stored_form(
            case.label, ignore_place=case.label_turn is not None, orientation=case.orientation
        )
        label_file = case.label.stat().st_size
        low, high = rules.SPACING_MM
        if not all(low <= length <= high for length in grid.spacing_mm):
            return None
        if not dicom.is_series(case.image) and not _is_whole(case, grid, dtype, label_grid):
            return None
    except Exception:  # whatever it is, it will be said when the case is read
        return None
    upright = geometry.ras_grid(grid)
    prepared = resampling.resampled_shape(upright.shape, upright.spacing_mm, target_mm)
    native_voxels, prepared_voxels = math.prod(grid.shape), math.prod(prepared)
    planes = 4 * _planes_voxels(grid, upright, prepared)
    plain_label = label_type.itemsize == 1 and not label_scaled
    label_bytes = math.prod(label_grid.shape) * (1 if plain_label else 2 * label_type.itemsize + 6)
    # both read at the same time | planes besides both
    stages = (
        label_bytes + native_voxels * image_bytes,
        native_voxels * (image_bytes + 1) + math.prod(label_grid.shape) + planes,
    )
    memory = int(max(stages) * _MARGIN) + _SLABS_BYTES
    return CaseNeed(
        native_voxels, prepared_voxels, read_bytes + label_file, memory, 3 * prepared_voxels
    )


def _is_whole(case: Case, grid: Grid, dtype: np.dtype, label_grid: Grid) -> bool:
    """Returns whether scan and label may be what their headers declare: one odd number must not
    stop a cohort for want of memory.
    """
    if math.prod(grid.shape) != math.prod(label_grid.shape):
        return False
    declared = math.prod(grid.shape) * dtype.itemsize
    return declared <= _USUAL_DENSITY * case.image.stat().st_size or nifti.holds_its_voxels(
        case.image
    )


def choose_workers(cases: int, wanted: int) -> int:
    """Returns how many cases to prepare at a time; `wanted` 0 stands for one a processor."""
    return max(1, min(cases, wanted or os.cpu_count() or 1))


def cohort_budget(
    needs: Iterable[CaseNeed | None], *, done: int, workers: int, limit_bytes: int, speed: Speed
) -> Budget:
    """Returns the budget of a cohort.

    Args:
      needs: of the cases that are not done.
      limit_bytes: cases wait rather than exceed it.
    Raises:
      ValueError: if a single case needs more than the limit.
    """
    needs = list(needs)
    known = [need for need in needs if need is not None]
    idle = idle_bytes(workers)
    largest = max((need.memory_bytes for need in known), default=0)
    if idle + largest > limit_bytes:
        raise ValueError(
            f"memory is limited to {limit_bytes / 1e9:.1f} GB, the largest case alone needs {(idle + largest) / 1e9:.1f} GB with "
            f"{workers} workers; raise the limit, prepare fewer cases at a time, or choose a coarser spacing"
        )
    together = idle + sum(heapq.nlargest(workers, (need.memory_bytes for need in known)))
    processors = min(workers, os.cpu_count() or 1)
    seconds = sum(speed.seconds(need) for need in known) / processors + (
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
    """Returns the memory of the processes themselves: this one and, beyond one worker, as many that
    have imported what it has.
    """
    own = psutil.Process().memory_info().rss
    return own if workers == 1 else own + workers * min(own, _WORKER_BYTES)


def default_limit_bytes() -> int:
    """Returns four fifths of the memory that is free now."""
    return int(0.8 * psutil.virtual_memory().available)


def measure_speed() -> Speed:
    """Measures decompression and resampling on a small volume of noise: a tenth of a second."""
    voxels = np.random.default_rng(0).normal(0, 20, _SAMPLE).astype(np.int16)
    packed = igzip.compress(voxels.tobytes(), 1)
    start = time.perf_counter()
    igzip.decompress(packed)
    read = time.perf_counter()
    prepared = 0
    for slab in resampling.linear_slabs(
        np.asfortranarray(voxels), (0.7, 0.7, 1.0), (1.0, 1.0, 1.0), finish=intensity.window_float16
    ):
        prepared += slab.size
    end = time.perf_counter()
    # checks and labels add as much again per native voxel as a quarter of decompression
    return Speed(1.25 * (read - start) / voxels.size, (end - read) / prepared)


def _planes_voxels(grid: Grid, upright: Grid, prepared: Sequence[int]) -> int:
    # `separable.slabs` holds planes across the slowest axis of the file, which is its last
    axis = geometry.orientation(grid.affine).axes.index(2)
    return min(prepared[axis], upright.shape[axis]) * math.prod(
        n for i, n in enumerate(prepared) if i != axis
    )


def _dicom_form(case: Case) -> tuple[Grid, int, int]:
    label_grid, _, _ = nifti.stored_form(case.label)
    affine = np.diag([*label_grid.spacing_mm, 1.0])
    if not case.image.is_dir():  # a zip or a multi-frame file: as many voxels as its label
        return Grid(label_grid.shape, affine), 6, case.image.stat().st_size
    sizes = [path.stat().st_size for path in dicom.files_in(case.image)]
    return Grid((*_DICOM_SLICE, max(2, len(sizes))), affine), 6, sum(sizes)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
