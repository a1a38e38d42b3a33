"""To the training grid and back: linear along each axis for CT, nearest for labels, per-class linear for predictions.

The grid keeps the first voxel centre and has round((n - 1) * s / t) + 1 voxels an axis (MONAI's convention).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocessing import geometry
from preprocessing.volume import Grid

_SLAB_VOXELS = 4_000_000  # of the native grid, interpolated at a time on the way back


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> tuple[int, ...]:
    """Returns voxels per axis after resampling; the last centre stays to within half a target voxel."""
    return tuple(round((n - 1) * s / t) + 1 for n, s, t in zip(shape, spacing_mm, target_mm, strict=True))


def resample_linear(array: np.ndarray, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> np.ndarray:
    """Returns float32 [x', y', z']: each voxel the linear interpolation along x, y and z, edges held.

    Separable: three one-dimensional passes, the one that shrinks the volume most first, and no coordinate grid.
    """
    shape = resampled_shape(array.shape, spacing_mm, target_mm)
    if array.strides[0] < array.strides[-1] or array.strides[0] < 0:
        # NIfTI files hold x fastest. NumPy gathers fastest along the slowest axis of what it takes for C order.
        ordered = np.abs(array.strides)
        if ordered[0] < ordered[-1]:
            return resample_linear(array.T, spacing_mm[::-1], target_mm[::-1]).T
    for axis in sorted(range(3), key=lambda axis: shape[axis] / array.shape[axis]):
        array = _interpolate_axis(array, axis, np.arange(shape[axis]) * (target_mm[axis] / spacing_mm[axis]))
    return np.asarray(array, dtype=np.float32)


def resample_nearest(array: np.ndarray, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> np.ndarray:
    """Returns [x', y', z'] of the same dtype: each voxel the value of the nearest old one, the lower of two as near."""
    shape = resampled_shape(array.shape, spacing_mm, target_mm)
    for axis in range(3):
        places = np.arange(shape[axis]) * (target_mm[axis] / spacing_mm[axis])
        # 1e-6: a place that is midway but for rounding is midway
        array = np.take(array, np.clip(np.ceil(places - 0.5 - 1e-6), 0, array.shape[axis] - 1).astype(np.intp), axis=axis)
    return np.ascontiguousarray(array)


def restore_labels(mask: np.ndarray, native: Grid, target_mm: Sequence[float]) -> np.ndarray:
    """Returns a mask of the training grid on the native grid: uint8 of exactly `native.shape`, in its axis order.

    Each native voxel takes the class whose linearly interpolated membership is largest there, so contours are smooth and no
    class is favoured. Only the box around the foreground is interpolated, slab by slab.

    Args:
      mask: uint8 [x', y', z'] on the training grid, RAS+ order.
      native: the scan's own grid, any orientation.
      target_mm: spacing of the training grid.
    Raises:
      ValueError: if the mask is not on the training grid of `native`.
    """
    upright = geometry.ras_grid(native)
    expected = resampled_shape(upright.shape, upright.spacing_mm, target_mm)
    if mask.shape != expected:
        raise ValueError(
            f"mask has {mask.shape} voxels, a scan of {native.shape} voxels has {expected} at {tuple(target_mm)} mm; predict on that grid"
        )
    restored = np.zeros(upright.shape, dtype=np.uint8)
    classes = [int(value) for value in np.unique(mask)]
    occupied = [np.flatnonzero((mask > 0).any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if len(occupied[0]):
        places = [np.arange(n) * (s / t) for n, s, t in zip(upright.shape, upright.spacing_mm, target_mm, strict=True)]
        box = [
            slice(*np.searchsorted(place, (used[0] - 1, used[-1] + 1), side="left")) for place, used in zip(places, occupied, strict=True)
        ]
        y, z = places[1][box[1]], places[2][box[2]]
        slab = max(1, _SLAB_VOXELS // max(1, len(y) * len(z)))
        for start in range(box[0].start, box[0].stop, slab):
            stop = min(start + slab, box[0].stop)
            restored[start:stop, box[1], box[2]] = _most_likely(mask, classes, (places[0][start:stop], y, z))
    return np.ascontiguousarray(geometry.from_ras(restored, native))


def _most_likely(mask: np.ndarray, classes: Sequence[int], places: Sequence[np.ndarray]) -> np.ndarray:
    best = np.zeros([len(place) for place in places], dtype=np.uint8)
    score: np.ndarray | None = None
    for value in classes:
        member: np.ndarray = mask == value
        for axis in range(3):
            member = _interpolate_axis(member, axis, places[axis])
        if score is None:
            score, best[:] = member, value
        else:
            better = member > score
            best[better] = value
            np.maximum(score, member, out=score)
    return best


def _interpolate_axis(array: np.ndarray, axis: int, places: np.ndarray) -> np.ndarray:
    """Returns float32, `array` linearly interpolated at fractional indices along one axis, edges held."""
    last = array.shape[axis] - 1
    places = np.clip(places, 0.0, last)
    lower = np.floor(places).astype(np.intp)
    share = (places - lower).astype(np.float32)
    if not share.any():
        if len(places) == last + 1 and np.array_equal(lower, np.arange(last + 1)):
            return array.astype(np.float32, copy=False)
        return np.take(array, lower, axis=axis).astype(np.float32, copy=False)
    share = share.reshape([-1 if a == axis else 1 for a in range(3)])
    result = np.take(array, lower, axis=axis).astype(np.float32, copy=False)
    difference = np.take(array, np.minimum(lower + 1, last), axis=axis).astype(np.float32, copy=False)
    difference -= result
    difference *= share
    difference += result
    return difference
