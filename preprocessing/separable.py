"""Linear interpolation of a volume, one axis after another.

Trilinear interpolation on a grid parallel to the voxels is the product of three one-dimensional
operators, each with two weights per voxel. It needs neither a coordinate grid nor a gather of eight
corners: the in-plane operators are applied to a plane of the volume while it is in the processor's
cache, and neighbouring planes are mixed before that (if planes become fewer) or after it (if they
become more).

`interpolate` returns a whole volume in the memory order of its input; besides input and output,
only a few planes are in memory. `slabs` yields the volume piece by piece in C order, whatever the
order of the input: the matrix products also transpose, and a piece is still in the cache when it is
yielded.
"""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.sparse

from preprocessing.axes import memory_order

_BLOCK = 16  # outputs per band: measured fastest of 16, 32, 64, 128 at 512 -> 359
_PLANES_BLOCK = 32  # the same along the axis across planes
_SLAB_VOXELS = 2**18  # a slab of 1 MB of float32 stays in the second-level cache

PlaneOperator = Callable[[np.ndarray], np.ndarray]


class Taps:
    """The operator of one axis: each output lies between two neighbouring inputs.

    Args:
      coordinates: float [m], ascending, in input voxels; a position outside [0, size - 1] takes the
          value at the edge.
      size: number of inputs.
    """

    def __init__(self, coordinates: np.ndarray, size: int):
        # float64, because float32 represents position 1000 only to 6e-5 of a voxel
        clamped = np.clip(np.asarray(coordinates, dtype=np.float64), 0.0, size - 1)
        self.size, self.count = size, len(clamped)
        self.lower = np.floor(clamped).astype(np.int32)
        self.upper = np.minimum(self.lower + 1, size - 1).astype(np.int32)
        self.weight = (clamped - self.lower).astype(np.float32)  # weight of `upper`
        self.identity = (
            self.count == size
            and not self.weight.any()
            and np.array_equal(self.lower, np.arange(size))
        )

    def matrix(self) -> scipy.sparse.csr_matrix:
        """Returns the operator, float32 [m, size]."""
        columns = np.stack([self.lower, self.upper], axis=1).ravel()
        weights = np.stack([1 - self.weight, self.weight], axis=1).ravel()
        return scipy.sparse.csr_matrix(
            (weights, columns, np.arange(0, 2 * self.count + 1, 2)), shape=(self.count, self.size)
        )


class _Rows:
    """Applies an operator along the first axis of a plane: a sparse product of whole rows."""

    def __init__(self, taps: Taps):
        self._matrix = taps.matrix()

    def __call__(self, slab: np.ndarray) -> np.ndarray:
        return self._matrix @ slab


class _Columns:
    """Applies an operator along the last axis of a slab, as narrow dense bands.

    Gathering single columns would be three times slower.
    """

    def __init__(self, taps: Taps):
        self._count = taps.count
        self._bands = _bands(taps, _BLOCK)

    def __call__(self, slab: np.ndarray) -> np.ndarray:
        result = np.empty((len(slab), self._count), dtype=np.float32)
        for outputs, inputs, band in self._bands:
            np.matmul(slab[:, inputs], band, out=result[:, outputs])
        return result

    def turned(self, slab: np.ndarray, result: np.ndarray) -> None:
        """Writes the transpose of the result of a call into `result`."""
        for outputs, inputs, band in self._bands:
            np.matmul(band.T, slab[:, inputs].T, out=result[outputs])


def _bands(taps: Taps, block: int) -> list[tuple[slice, slice, np.ndarray]]:
    """Returns (outputs, inputs, float32 [inputs, outputs]) for each run of `block` outputs."""
    matrix, bands = taps.matrix(), []
    for start in range(0, taps.count, block):
        stop = min(start + block, taps.count)
        first, last = int(taps.lower[start]), int(taps.upper[stop - 1]) + 1
        bands.append(
            (
                slice(start, stop),
                slice(first, last),
                np.ascontiguousarray(matrix[start:stop, first:last].toarray().T),
            )
        )
    return bands


def interpolate(array: np.ndarray, coordinates: Sequence[np.ndarray]) -> np.ndarray:
    """Interpolates a volume linearly on a grid parallel to its own.

    Args:
      array: [x, y, z] of any real dtype and memory order, finite; may be a view with reversed axes.
      coordinates: for each axis the output positions in input voxels, ascending; edges are clamped.
    Returns:
      float32 of shape `[len(c) for c in coordinates]`, in the memory order of `array`.
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


def slabs(
    array: np.ndarray,
    coordinates: Sequence[np.ndarray],
    *,
    finish: Callable[[np.ndarray], np.ndarray] = lambda slab: slab,
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Yields the volume that `interpolate` returns as slabs along its first axis.

    Besides input and slabs, only the planes across the axis that is slowest in memory are kept: as
    many as that axis has voxels before or after interpolation, whichever is less.

    Args:
      array, coordinates: as for `interpolate`.
      finish: called with each slab, float32 [n, y, z], C-ordered, which it may change. Its result
          is yielded.
      threads: number of slabs computed at the same time; their order does not change.
    """
    slow_axis = memory_order(array)[0]
    first, second = (axis for axis in range(3) if axis != slow_axis)
    slow = Taps(coordinates[slow_axis], array.shape[slow_axis])
    source = array.transpose(slow_axis, first, second)
    in_plane = (
        Taps(coordinates[first], array.shape[first]),
        Taps(coordinates[second], array.shape[second]),
    )
    mixed_first = slow.count <= slow.size
    planes = np.empty(
        (slow.count if mixed_first else slow.size, in_plane[0].count, in_plane[1].count),
        dtype=np.float32,
    )

    def make_planes(wanted: range) -> None:
        plane = _InPlane(*in_plane, turned=abs(source.strides[1]) < abs(source.strides[2]))
        for k in wanted:
            if mixed_first:
                plane(
                    source[slow.lower[k]],
                    source[slow.upper[k]] if slow.weight[k] else None,
                    slow.weight[k],
                    planes[k],
                )
            else:
                plane(source[k], None, 0.0, planes[k])

    mix = _planes_to_slab(planes, None if mixed_first else slow, slow_axis)
    length, area = len(coordinates[0]), len(coordinates[1]) * len(coordinates[2])
    rows = max(1, _SLAB_VOXELS // area)
    pieces = [range(start, min(start + rows, length)) for start in range(0, length, rows)]
    if threads <= 1:
        make_planes(range(len(planes)))
        yield from (finish(mix(piece)) for piece in pieces)
        return
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(make_planes, [range(t, len(planes), threads) for t in range(threads)]))
        pending: collections.deque = collections.deque()
        for piece in pieces:
            pending.append(pool.submit(lambda piece: finish(mix(piece)), piece))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class _InPlane:
    """Applies both in-plane operators to one plane [first, second].

    It holds buffers, so each thread needs its own.

    Args:
      turned: whether the first axis of the planes is the faster one in memory.
    """

    def __init__(self, first: Taps, second: Taps, *, turned: bool):
        self._turned = turned
        rows, columns = (second, first) if turned else (first, second)
        self._rows = None if rows.identity else _Rows(rows)
        self._columns = None if columns.identity else _Columns(columns)
        self._below, self._above = (
            np.empty((rows.size, columns.size), dtype=np.float32) for _ in range(2)
        )

    def __call__(
        self, plane: np.ndarray, next_plane: np.ndarray | None, weight: float, result: np.ndarray
    ) -> None:
        """Interpolates a plane mixed with the next one into `result`, float32 [first, second].

        Args:
          weight: weight of the next plane.
        """
        slab = self._below
        slab[...] = plane.T if self._turned else plane
        if next_plane is not None:
            self._above[...] = next_plane.T if self._turned else next_plane
            self._above -= slab
            self._above *= weight
            slab += self._above
        if self._rows is not None:
            slab = self._rows(slab)
        if self._columns is None:
            result[...] = slab.T if self._turned else slab
        elif self._turned:
            self._columns.turned(slab, result)
        else:
            result[...] = self._columns(slab)


def _planes_to_slab(
    planes: np.ndarray, slow: Taps | None, slow_axis: int
) -> Callable[[range], np.ndarray]:
    """Returns a function from a range of the first axis to a new slab [n, y, z].

    Args:
      planes: [slow, first, second].
      slow: operator of the slow axis; None if it has been applied.
    """
    # planes [slow, first, second] -> [x, y, z]
    order = {0: (0, 1, 2), 1: (1, 0, 2), 2: (1, 2, 0)}[slow_axis]
    if slow is None:

        def turn(piece: range) -> np.ndarray:
            return np.array(planes.transpose(order)[piece.start : piece.stop], order="C")

        return turn
    if slow_axis == 0:

        def mix(piece: range) -> np.ndarray:
            slab = np.empty((len(piece), *planes.shape[1:]), dtype=np.float32)
            for result, k in zip(slab, piece, strict=True):
                below = planes[slow.lower[k]]
                if slow.weight[k]:
                    np.subtract(planes[slow.upper[k]], below, out=result)
                    result *= slow.weight[k]
                    result += below
                else:
                    result[...] = below
            return slab

        return mix
    bands = _bands(slow, _PLANES_BLOCK)

    def spread(piece: range) -> np.ndarray:
        part = planes[:, piece.start : piece.stop]
        if slow_axis == 2:
            slab = np.empty((len(piece), planes.shape[2], slow.count), dtype=np.float32)
            for outputs, inputs, band in bands:
                np.matmul(part[inputs].transpose(1, 2, 0), band, out=slab[:, :, outputs])
        else:
            slab = np.empty((len(piece), slow.count, planes.shape[2]), dtype=np.float32)
            for outputs, inputs, band in bands:
                np.matmul(band.T, part[inputs].transpose(1, 0, 2), out=slab[:, outputs])
        return slab

    return spread


def _plane(middle: Taps, fast: Taps) -> PlaneOperator:
    """Returns a function that applies both in-plane operators to a plane."""
    steps: list[tuple[float, PlaneOperator]] = []
    if not middle.identity:
        steps.append((middle.count / middle.size, _Rows(middle)))
    if not fast.identity:
        steps.append((fast.count / fast.size, _Columns(fast)))
    # the axis that shrinks more comes first and leaves less work for the other
    steps.sort(key=lambda step: step[0])

    def apply(slab: np.ndarray) -> np.ndarray:
        for _, step in steps:
            slab = step(slab)
        return slab

    return apply


def _mix_then_resample(
    source: np.ndarray, slow: Taps, plane: PlaneOperator, result: np.ndarray
) -> None:
    below, above = (np.empty(source.shape[1:], dtype=np.float32) for _ in range(2))
    for k in range(slow.count):
        below[...] = source[slow.lower[k]]
        if slow.weight[k]:
            above[...] = source[slow.upper[k]]
            above -= below
            above *= slow.weight[k]
            below += above
        result[k] = plane(below)


def _resample_then_mix(
    source: np.ndarray, slow: Taps, plane: PlaneOperator, result: np.ndarray
) -> None:
    resampled: dict[int, np.ndarray] = {}
    step = np.empty(result.shape[1:], dtype=np.float32)
    for k in range(slow.count):
        needed = (int(slow.lower[k]), int(slow.upper[k]) if slow.weight[k] else int(slow.lower[k]))
        resampled = {
            i: resampled[i] if i in resampled else plane(source[i].astype(np.float32, order="C"))
            for i in dict.fromkeys(needed)
        }
        below, above = (resampled[i] for i in needed)
        if slow.weight[k]:
            np.subtract(above, below, out=step)
            step *= slow.weight[k]
            np.add(below, step, out=result[k])
        else:
            result[k] = below
