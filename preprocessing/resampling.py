"""Resamples between a scan's own grid and the training grid: CT linear, labels nearest.

The first voxel centre stays in place; the last one moves by at most half a target voxel (MONAI's
convention: its `Spacing` with align_corners False and border padding). Positions beyond the last
voxel centre take its value.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from preprocessing import geometry, intensity, separable
from preprocessing.axes import memory_order, three
from preprocessing.foreground import LabelBox
from preprocessing.volume import Grid, Volume

# Voxels interpolated at a time on the way back: 16 MB of float32, whatever the size of the scan.
_RESTORED_VOXELS = 2**22


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> tuple[int, int, int]:
    """Returns the voxels per axis [x, y, z] after resampling.

    Raises:
      ValueError: if a spacing is not above 0.
    Source: MONAI, monai/data/utils.py, compute_shape_offset. As there, the 1 is added before
      rounding, and halves are rounded to even: 512 voxels of 0.5 mm become 256 of 1 mm.
    """
    for name, values in (("spacing_mm", spacing_mm), ("target_mm", target_mm)):
        if len(values) != 3 or not all(v > 0 for v in values):
            raise ValueError(f"{name} is {tuple(values)}; expected three lengths above 0")
    return three(
        round((n - 1) * s / t + 1) for n, s, t in zip(shape, spacing_mm, target_mm, strict=True)
    )


def resample_linear(
    array: np.ndarray, spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> np.ndarray:
    """Resamples a CT linearly along all three axes.

    Args:
      array: [x, y, z] of any real dtype and memory order, finite.
      spacing_mm, target_mm: voxel spacing per axis before and after.
    Returns:
      float32 [x, y, z] of `resampled_shape`, in the memory order of `array`.
    """
    return separable.interpolate(array, _positions(array.shape, spacing_mm, target_mm))


def windowed_slabs(
    scan: Volume,
    target_mm: Sequence[float],
    window_hu: Sequence[float],
    *,
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Yields a scan as the network sees it, as slabs along x: float16 in [-1, 1], in C order.

    It is the result of `resample_linear`, then `intensity.window_float16`. The whole volume is
    never in memory; see `separable.slabs`.
    """
    low, high = window_hu
    return separable.slabs(
        scan.array,
        _positions(scan.shape, scan.spacing_mm, target_mm),
        finish=functools.partial(intensity.window_float16, low=low, high=high),
        threads=threads,
    )


def resample_nearest(
    array: np.ndarray, spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> np.ndarray:
    """Resamples labels: each voxel takes the value of the nearest one.

    Half-way between two voxels, the one with the even index is taken, as in MONAI.

    Args:
      array: [x, y, z] of any dtype and memory order.
    Returns:
      [x, y, z] of `resampled_shape`, in the dtype and memory order of `array`.
    """
    order = memory_order(array)
    source = array.transpose(order)
    nearest = _nearest(array.shape, spacing_mm, target_mm)
    slow, middle, fast = (nearest[a] for a in order)
    result = np.zeros((len(slow), len(middle), len(fast)), dtype=array.dtype)
    for k, index in enumerate(slow):
        slab = source[index]
        if slab.any():  # most slabs of a label map are empty
            result[k] = slab[middle].take(fast, axis=1)
    return result.transpose(np.argsort(order))


def resample_box(
    label: LabelBox, spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> LabelBox:
    """Returns the box that `resample_nearest` of a label map would have, from its box alone."""
    start, indices = [], []
    for first, size, nearest in zip(
        label.start, label.voxels.shape, _nearest(label.shape, spacing_mm, target_mm), strict=True
    ):
        inside = np.flatnonzero((nearest >= first) & (nearest < first + size))
        start.append(int(inside[0]) if len(inside) else 0)
        indices.append(nearest[inside] - first)
    # again, because with fewer voxels the outermost layer may be background
    box = LabelBox.of(label.voxels[np.ix_(*indices)])
    return LabelBox(
        resampled_shape(label.shape, spacing_mm, target_mm),
        three(a + b for a, b in zip(start, box.start, strict=True)),
        box.voxels,
    )


def restore_labels(mask: np.ndarray, native: Grid, target_mm: Sequence[float]) -> np.ndarray:
    """Brings a mask from the training grid back to a scan's own grid.

    Each class is interpolated linearly and the largest share wins; in a tie, the lower class wins.
    The surface is smoother than with nearest voxels, and a native voxel that coincides with a
    training voxel keeps its class. Only the box around the foreground is interpolated, a few slabs
    at a time.

    Args:
      mask: uint8 [x, y, z] in RAS+, on the grid to which `to_ras` and resampling to `target_mm`
          bring this scan.
      native: the scan's grid, in any of the 48 axis orders, oblique or not.
    Returns:
      uint8 of shape `native.shape`, in the scan's own axis order (Fortran-ordered, as files are).
    Raises:
      ValueError: if the mask does not have the shape of this scan's training grid.
    """
    upright = _require_training_grid("mask", mask.shape, native, target_mm)
    restored = np.zeros(native.shape, dtype=np.uint8, order="F")
    box = LabelBox.of(mask)
    if not box.voxels.size:
        return restored
    crop, outputs, positions = [], [], []
    for axis, places in enumerate(_places_back(upright, target_mm)):
        last = mask.shape[axis] - 1
        # a margin of one background voxel, if there is one
        low, high = max(box.slices[axis].start - 1, 0), min(box.slices[axis].stop, last)
        inside = np.flatnonzero((places >= low) & ((places <= high) | (high == last)))
        if not len(inside):  # the foreground lies between two native voxels
            return restored
        crop.append(slice(low, high + 1))
        outputs.append(slice(int(inside[0]), int(inside[-1]) + 1))
        positions.append(places[inside] - low)
    target = geometry.to_ras_order(restored, native)  # a view into `restored`
    _write_likeliest(mask[tuple(crop)], positions, target[tuple(outputs)])
    return restored


def restored_probabilities(
    probabilities: np.ndarray, native: Grid, target_mm: Sequence[float]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields class probabilities on a scan's own grid in RAS+ order, as slabs along x.

    The probabilities are interpolated linearly, a few slabs at a time and one class after another.

    Args:
      probabilities: real [x, y, z, classes] on the training grid, as for `restore_labels`; may be a
          memory map, or hold logits.
      native: the scan's grid.
    Raises:
      ValueError: as `restore_labels`.
    Yields:
      The range of x, and float32 [n, y, z, classes] there. Write them into the view that
      `geometry.to_ras_order` gives of an array on the native grid.
    """
    upright = _require_training_grid(
        "array of probabilities", probabilities.shape[:3], native, target_mm
    )
    classes = probabilities.shape[3]
    for outputs, inputs, places in _row_blocks(
        _places_back(upright, target_mm), upright.shape, classes
    ):
        slab = np.empty(
            (outputs.stop - outputs.start, *upright.shape[1:], classes), dtype=np.float32
        )
        for class_ in range(classes):
            slab[..., class_] = separable.interpolate(probabilities[inputs, :, :, class_], places)
        yield outputs, slab


def _write_likeliest(
    labels: np.ndarray, positions: Sequence[np.ndarray], target: np.ndarray
) -> None:
    """Writes the class with the largest share at each voxel into `target` [x, y, z].

    Args:
      labels: a box of the training grid.
      positions: positions of the voxels of `target` in that box, for each axis.
    """
    lowest, *others = np.unique(labels)
    for outputs, inputs, places in _row_blocks(positions, target.shape, 1):
        best = separable.interpolate(labels[inputs] == lowest, places)
        winner = np.full(best.shape, lowest, dtype=np.uint8)
        for value in others:
            share = separable.interpolate(labels[inputs] == value, places)
            # larger by more than rounding errors, so that the lower class wins a tie
            winner[share > best + np.float32(1e-5)] = value
            np.maximum(best, share, out=best)
        target[outputs] = winner


def _row_blocks(
    positions: Sequence[np.ndarray], shape: Sequence[int], classes: int
) -> Iterator[tuple[slice, slice, list[np.ndarray]]]:
    """Yields blocks of rows of the result.

    Yields:
      The rows, the rows of the training grid between which they lie, and their positions relative
      to these.
    """
    area = shape[1] * shape[2]
    rows = max(1, min(_RESTORED_VOXELS, shape[0] * area // 8) // (area * classes))
    for start in range(0, shape[0], rows):
        places = positions[0][start : start + rows]
        low, high = int(places[0]), int(np.ceil(places[-1]))
        yield (
            slice(start, start + len(places)),
            slice(low, high + 1),
            [places - low, *positions[1:]],
        )


def _require_training_grid(
    name: str, shape: Sequence[int], native: Grid, target_mm: Sequence[float]
) -> Grid:
    """Returns the native grid in RAS+. Raises ValueError unless `shape` is its training grid's."""
    upright = geometry.ras_grid(native)
    expected = resampled_shape(upright.shape, upright.spacing_mm, target_mm)
    if tuple(shape) != expected:
        raise ValueError(
            f"{name} has {tuple(shape)} voxels, a scan of {native.shape} voxels has {expected} at "
            f"{tuple(target_mm)} mm; pass what was predicted for this scan"
        )
    return upright


def _places_back(upright: Grid, target_mm: Sequence[float]) -> list[np.ndarray]:
    return [
        np.arange(n) * (s / t)
        for n, s, t in zip(upright.shape, upright.spacing_mm, target_mm, strict=True)
    ]


def _positions(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> list[np.ndarray]:
    counts = resampled_shape(shape, spacing_mm, target_mm)
    return [np.arange(m) * (t / s) for m, s, t in zip(counts, spacing_mm, target_mm, strict=True)]


def _nearest(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> list[np.ndarray]:
    # rounded first, so that rounding errors do not decide at half-way positions
    positions = _positions(shape, spacing_mm, target_mm)
    return [
        np.clip(np.rint(p.round(6)), 0, n - 1).astype(np.intp)
        for p, n in zip(positions, shape, strict=True)
    ]
