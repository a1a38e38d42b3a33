"""Linear interpolation of a volume, one axis after the other.

Trilinear interpolation on a grid parallel to the voxels is three one-dimensional operators, each with two weights a voxel. No
coordinate grid and no eight-corner gather: a slab of the volume is taken through its in-plane operators while it is in the
processor's cache, and neighbouring slabs are mixed before that (where slabs become fewer) or after it (where they become more).
Besides input and output only a few slabs are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse

_BLOCK = 16  # outputs a band: measured fastest of 16, 32, 64, 128 at 512 -> 359


class Taps:
    """One axis: each output lies between two neighbouring inputs.

    Args:
      coordinates: float [m], ascending, in input voxels; those outside [0, size - 1] take the edge's value.
      size: number of inputs.
    """

    def __init__(self, coordinates: np.ndarray, size: int):
        # float64 for the coordinates: float32 places voxel 1000 only to 6e-5 of a voxel
        clamped = np.clip(np.asarray(coordinates, dtype=np.float64), 0.0, size - 1)
        self.size, self.count = size, len(clamped)
        self.lower = np.floor(clamped).astype(np.int32)
        self.upper = np.minimum(self.lower + 1, size - 1).astype(np.int32)
        self.weight = (clamped - self.lower).astype(np.float32)  # of `upper`
        self.identity = self.count == size and not self.weight.any() and np.array_equal(self.lower, np.arange(size))

    def matrix(self) -> scipy.sparse.csr_matrix:
        """Returns the operator, float32 [m, size]."""
        columns = np.stack([self.lower, self.upper], axis=1).ravel()
        weights = np.stack([1 - self.weight, self.weight], axis=1).ravel()
        return scipy.sparse.csr_matrix((weights, columns, np.arange(0, 2 * self.count + 1, 2)), shape=(self.count, self.size))


class _Rows:
    """Applies an operator along the first axis of a slab: a sparse product, whole rows at a time."""

    def __init__(self, taps: Taps):
        self._matrix = taps.matrix()

    def __call__(self, slab: np.ndarray) -> np.ndarray:
        return self._matrix @ slab


class _Columns:
    """Applies an operator along the last axis of a slab: narrow dense bands, since gathering single columns is three times slower."""

    def __init__(self, taps: Taps):
        dense = taps.matrix()
        self._count = taps.count
        self._bands = []
        for start in range(0, taps.count, _BLOCK):
            stop = min(start + _BLOCK, taps.count)
            first, last = int(taps.lower[start]), int(taps.upper[stop - 1]) + 1
            band = np.ascontiguousarray(dense[start:stop, first:last].toarray().T)
            self._bands.append((slice(start, stop), slice(first, last), band))

    def __call__(self, slab: np.ndarray) -> np.ndarray:
        result = np.empty((len(slab), self._count), dtype=np.float32)
        for outputs, inputs, band in self._bands:
            np.matmul(slab[:, inputs], band, out=result[:, outputs])
        return result


def memory_order(array: np.ndarray) -> tuple[int, ...]:
    """Returns the axes from the slowest in memory to the fastest."""
    return tuple(int(a) for a in np.argsort([-abs(s) for s in array.strides], kind="stable"))


def interpolate(array: np.ndarray, coordinates: Sequence[np.ndarray]) -> np.ndarray:
    """Interpolates a volume linearly on a grid parallel to its own.

    Args:
      array: [x, y, z] of any real dtype and any memory order, views with reversed axes included. Finite.
      coordinates: for each axis the output positions in input voxels, ascending; edges are clamped.
    Returns:
      float32, shape `[len(c) for c in coordinates]`, in the memory order of `array`.
    """
    order = memory_order(array)
    source = array.transpose(order)
    slow, middle, fast = (Taps(coordinates[a], array.shape[a]) for a in order)
    result = np.empty((slow.count, middle.count, fast.count), dtype=np.float32)
    plane = _plane(middle, fast)
    if slow.count <= slow.size:
        _mix_then_resample(source, slow, plane, result)
    else:
        _resample_then_mix(source, slow, plane, result)
    return result.transpose(np.argsort(order))


def _plane(middle: Taps, fast: Taps):
    steps = [(taps.count / taps.size, kind(taps)) for taps, kind in ((middle, _Rows), (fast, _Columns)) if not taps.identity]
    steps.sort(key=lambda step: step[0])  # the axis that shrinks most first: the other one has less to do

    def apply(slab: np.ndarray) -> np.ndarray:
        for _, step in steps:
            slab = step(slab)
        return slab

    return apply


def _mix_then_resample(source, slow: Taps, plane, result) -> None:
    below, above = (np.empty(source.shape[1:], dtype=np.float32) for _ in range(2))
    for k in range(slow.count):
        below[...] = source[slow.lower[k]]
        if slow.weight[k]:
            above[...] = source[slow.upper[k]]
            above -= below
            above *= slow.weight[k]
            below += above
        result[k] = plane(below)


def _resample_then_mix(source, slow: Taps, plane, result) -> None:
    resampled: dict[int, np.ndarray] = {}
    step = np.empty(result.shape[1:], dtype=np.float32)
    for k in range(slow.count):
        needed = (int(slow.lower[k]), int(slow.upper[k]) if slow.weight[k] else int(slow.lower[k]))
        resampled = {i: resampled[i] if i in resampled else plane(source[i].astype(np.float32, order="C")) for i in dict.fromkeys(needed)}
        below, above = (resampled[i] for i in needed)
        if slow.weight[k]:
            np.subtract(above, below, out=step)
            step *= slow.weight[k]
            np.add(below, step, out=result[k])
        else:
            result[k] = below
