"""Between a scan's own grid and the training grid: CT linear, labels nearest, and the exact way back.

The first voxel centre stays where it is; the last lies within half a target voxel of where it was (MONAI's convention: its
`Spacing` with align_corners False and border padding). Positions beyond the last voxel centre take its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from preprocessing import geometry, separable
from preprocessing.foreground import LabelBox
from preprocessing.volume import Grid

_RESTORED_VOXELS = 2**22  # interpolated at a time on the way back: 16 MB of float32, whatever the size of the scan


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> tuple[int, int, int]:
    """Returns the voxels per axis [x, y, z] after resampling.

    Raises:
      ValueError: if a spacing is not above 0.
    Source: MONAI, monai/data/utils.py, compute_shape_offset. As there the 1 is added before rounding, and halves go to the even
      number: 512 voxels of 0.5 mm become 256 of 1 mm.
    """
    for name, values in (("spacing_mm", spacing_mm), ("target_mm", target_mm)):
        if len(values) != 3 or not all(v > 0 for v in values):
            raise ValueError(f"{name} is {tuple(values)}; expected three lengths above 0")
    return tuple(round((n - 1) * s / t + 1) for n, s, t in zip(shape, spacing_mm, target_mm, strict=True))


def resample_linear(array: np.ndarray, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> np.ndarray:
    """Resamples a CT linearly in all three axes.

    Args:
      array: [x, y, z], any real dtype and memory order, finite.
      spacing_mm, target_mm: voxel spacing per axis before and after.
    Returns:
      float32 [x, y, z] of `resampled_shape`, in the memory order of `array`.
    """
    return separable.interpolate(array, _positions(array.shape, spacing_mm, target_mm))


def linear_slabs(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    target_mm: Sequence[float],
    *,
    finish: Callable[[np.ndarray], Any] = lambda slab: slab,
    threads: int = 1,
) -> Iterator[Any]:
    """Yields `resample_linear` along x, slab after slab in C order, without ever holding the whole; see `separable.slabs`."""
    return separable.slabs(array, _positions(array.shape, spacing_mm, target_mm), finish=finish, threads=threads)


def resample_nearest(array: np.ndarray, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> np.ndarray:
    """Resamples labels: each voxel takes the value of the nearest one, half-way of the one with the even index (as MONAI).

    Args:
      array: [x, y, z], any dtype and memory order.
    Returns:
      [x, y, z] of `resampled_shape`, dtype and memory order of `array`.
    """
    order = separable.memory_order(array)
    source = array.transpose(order)
    nearest = _nearest(array.shape, spacing_mm, target_mm)
    slow, middle, fast = (nearest[a] for a in order)
    result = np.zeros((len(slow), len(middle), len(fast)), dtype=array.dtype)
    for k, index in enumerate(slow):
        slab = source[index]
        if slab.any():  # most slabs of a label map are empty
            result[k] = slab[middle].take(fast, axis=1)
    return result.transpose(np.argsort(order))


def resample_box(label: LabelBox, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> LabelBox:
    """Returns `resample_nearest` of a label map of which only the foreground's box is at hand, as such a box."""
    start, indices = [], []
    for first, size, nearest in zip(label.start, label.voxels.shape, _nearest(label.shape, spacing_mm, target_mm), strict=True):
        inside = np.flatnonzero((nearest >= first) & (nearest < first + size))
        start.append(int(inside[0]) if len(inside) else 0)
        indices.append(nearest[inside] - first)
    box = LabelBox.of(label.voxels[np.ix_(*indices)])  # with fewer voxels the outermost layer may be background
    return LabelBox(
        resampled_shape(label.shape, spacing_mm, target_mm), tuple(a + b for a, b in zip(start, box.start, strict=True)), box.voxels
    )


def resampled_grid(grid: Grid, target_mm: Sequence[float]) -> Grid:
    """Returns the training grid of a scan's grid in RAS+: the same first voxel centre and directions, `target_mm` apart."""
    affine = grid.affine.copy()
    affine[:3, :3] *= np.asarray(target_mm) / grid.spacing_mm
    return Grid(resampled_shape(grid.shape, grid.spacing_mm, target_mm), affine)


def restore_labels(mask: np.ndarray, native: Grid, target_mm: Sequence[float]) -> np.ndarray:
    """Brings a mask from the training grid back to a scan's own grid.

    Each class is interpolated linearly and the largest share wins, the lower class where shares are equal; the surface is
    smoother than nearest voxels would give, and a native voxel that coincides with a training voxel keeps its class. Only the
    box around the foreground is interpolated, a few slabs at a time.

    Args:
      mask: uint8 [x, y, z] in RAS+, on the grid that `to_ras` and resampling to `target_mm` give for this scan.
      native: the scan's grid, in any of the 48 axis orders, oblique or not.
    Returns:
      uint8 of shape `native.shape`, in the scan's own axis order (Fortran-ordered, as files are).
    Raises:
      ValueError: if the mask has another shape than this scan's training grid.
    """
    upright = geometry.ras_grid(native)
    expected = resampled_shape(upright.shape, upright.spacing_mm, target_mm)
    if mask.shape != expected:
        raise ValueError(
            f"mask has {mask.shape} voxels, a scan of {native.shape} voxels has {expected} at {tuple(target_mm)} mm; "
            "pass the mask that was predicted for this scan"
        )
    restored = np.zeros(native.shape, dtype=np.uint8, order="F")
    crop, outputs, positions = [], [], []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(hit):
            return restored
        last = mask.shape[axis] - 1
        low, high = max(int(hit[0]) - 1, 0), min(int(hit[-1]) + 1, last)  # a margin of background, where there is any
        places = np.arange(upright.shape[axis]) * (upright.spacing_mm[axis] / target_mm[axis])
        inside = np.flatnonzero((places >= low) & ((places <= high) | (high == last)))
        if not len(inside):  # the foreground lies between two native voxels
            return restored
        crop.append(slice(low, high + 1))
        outputs.append(slice(int(inside[0]), int(inside[-1]) + 1))
        positions.append(places[inside] - low)
    target = geometry.to_ras_order(restored, native)  # a view: what is written into it is in the scan's order
    _write_likeliest(mask[tuple(crop)], positions, target[tuple(outputs)])
    return restored


def _write_likeliest(labels: np.ndarray, positions: list[np.ndarray], target: np.ndarray) -> None:
    classes = np.unique(labels)
    rows = max(1, _RESTORED_VOXELS // (target.shape[1] * target.shape[2]))
    for start in range(0, target.shape[0], rows):
        places = [positions[0][start : start + rows], *positions[1:]]
        best = separable.interpolate(labels == classes[0], places)
        winner = np.full(best.shape, classes[0], dtype=np.uint8)
        for value in classes[1:]:
            share = separable.interpolate(labels == value, places)
            winner[share > best + np.float32(1e-5)] = value  # more than rounding: equal shares stay with the lower class
            np.maximum(best, share, out=best)
        target[start : start + rows] = winner


def _positions(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> list[np.ndarray]:
    counts = resampled_shape(shape, spacing_mm, target_mm)
    return [np.arange(m) * (t / s) for m, s, t in zip(counts, spacing_mm, target_mm, strict=True)]


def _nearest(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> list[np.ndarray]:
    # rounded first: half-way but for the last bits is half-way
    positions = _positions(shape, spacing_mm, target_mm)
    return [np.clip(np.rint(p.round(6)), 0, n - 1).astype(np.intp) for p, n in zip(positions, shape, strict=True)]
