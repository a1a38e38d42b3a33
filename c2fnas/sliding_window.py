"""Sliding-window inference: runs a network over a whole volume, window by window.

The windows form a grid, so the sum of all windows' weights at a voxel is a product of three
one-dimensional sums. The normaliser is therefore three vectors, and each window's weights are
divided by it before use. Logits are blended, not probabilities, as in MONAI and nnU-Net; the
softmax is applied afterwards.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, get_args, runtime_checkable

import numpy as np

from c2fnas import window_kernels
from c2fnas.allowed_values import OVERLAP, Blending
from c2fnas.genotype import as_size
from runkit import settings
from runkit.aligned import aligned_empty

# float32 [n, x, y, z, 1] -> logits float32 [n, x, y, z, classes]
LogitsFn = Callable[[np.ndarray], np.ndarray]
# the lowest value of a scaled image, which pads a volume smaller than the window
AIR = -1.0
# Two threads saturate the memory bandwidth. The results do not depend on their number.
_BLENDERS = min(2, os.cpu_count() or 1)
_Result = TypeVar("_Result")


class BlendedSlab(Protocol):
    """Blended logits of some planes, in this process or on a device."""

    def __len__(self) -> int: ...

    def logits(self) -> np.ndarray:
        """Returns the logits, float32 [n, y, z, classes]."""

    def mask(self) -> np.ndarray:
        """Returns the class with the highest logit, of equal ones the lowest; uint8 [n, y, z]."""


@runtime_checkable
class BlendingNetwork(Protocol):
    """A `LogitsFn` that can also blend by itself; see `device_window.DeviceNetwork`."""

    def __call__(self, image: np.ndarray) -> np.ndarray: ...

    def slabs(
        self, image: np.ndarray, config: WindowConfig
    ) -> Iterator[tuple[int, BlendedSlab]] | None: ...


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """The settings of a sliding window.

    Attributes:
      size: x, y, z in voxels.
      overlap: overlap of neighbouring windows as a share of their size.
      blending: weights within a window, see `axis_weights`.
      batch: number of windows per call of the network.
      multiple: the network takes sizes that are multiples of this number. Along an axis on which a
        volume is shorter than the window, the window shrinks to the smallest such size that covers
        it, so that the instance norms see less air. 0 keeps the window as it is.
    Raises:
      ValueError: for a value out of range.
    """

    size: tuple[int, int, int]
    overlap: float = 0.25
    blending: Blending = "constant"
    batch: int = 1
    multiple: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(int(n) for n in self.size))
        if len(self.size) != 3 or min(self.size) < 1:
            raise ValueError(
                f"window size is {self.size}; expected three numbers of voxels above 0"
            )
        settings.require(OVERLAP, "overlap", self.overlap)
        if self.blending not in get_args(Blending):
            raise ValueError(
                f"blending is {self.blending!r}; expected one of {', '.join(get_args(Blending))}"
            )
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; expected at least 1")
        if self.multiple < 0:
            raise ValueError(
                f"multiple is {self.multiple}; expected a number of voxels, or 0 to keep the window"
            )

    def fitted(self, shape: Sequence[int]) -> WindowConfig:
        """Returns the window for a volume of `shape`; see `multiple`."""
        if not self.multiple:
            return self
        fitting = [-(-n // self.multiple) * self.multiple for n in shape]
        return dataclasses.replace(
            self, size=as_size([min(w, n) for w, n in zip(self.size, fitting, strict=True)])
        )


def starts(length: int, window: int, overlap: float) -> tuple[int, ...]:
    """Returns the first voxels of the windows along one axis.

    The windows are int(window * (1 - overlap)) voxels apart, but at least one. The last one is
    moved inside, so that it ends with the axis. An axis not longer than the window has one, at 0.
    """
    interval = max(1, int(window * (1.0 - overlap)))
    last = max(0, length - window)
    return tuple(min(index * interval, last) for index in range(math.ceil(last / interval) + 1))


def axis_weights(window: int, blending: Blending) -> np.ndarray:
    """Returns float64 [window]: the weights of a window along one axis.

    They are 1 for "constant", and a Gaussian with sigma = window / 8 for "gaussian".
    """
    if blending == "constant":
        return np.ones(window)
    offset = np.arange(window) - (window - 1) / 2.0
    return np.exp(-0.5 * np.square(offset / (window / 8.0)))


def normalised_weights(
    length: int, window: int, overlap: float, blending: Blending
) -> tuple[np.ndarray, ...]:
    """Returns float32 [window] for each window of an axis.

    At every voxel of the axis, the weights of all windows add up to 1.
    """
    weights, total = axis_weights(window, blending), np.zeros(length)
    begins = starts(length, window, overlap)
    for begin in begins:
        total[begin : begin + window] += weights
    return tuple((weights / total[begin : begin + window]).astype(np.float32) for begin in begins)


def slabs(
    image: np.ndarray, logits_fn: LogitsFn, config: WindowConfig
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the blended logits of a volume slab by slab along x.

    It needs memory for one slab as thick as the window and for the logits of one call, whatever the
    length of the volume.

    Args:
      image: float [x, y, z] in any memory order, scaled to [-1, 1]. Along an axis on which it is
        smaller than the window, it is padded with -1 on both sides and cropped afterwards.
      logits_fn: always called with float32 [config.batch, *config.fitted(image.shape).size, 1],
        which it must not keep.
      config: settings of the sliding window.
    Yields:
      (first x, logits float32 [n, y, z, classes]); the array is valid until the next one is
      requested.
    Raises:
      ValueError: if the image does not have three axes, or if the logits have another grid or are
        not finite.
    """
    place = placement(image.shape, config)
    config = config.fitted(image.shape)
    covered, before, inside = place.covered, place.before, place.inside
    along_x, along_y, along_z = place.along
    spots = list(itertools.product(along_y, along_z))
    patches = aligned_empty((config.batch, *config.size, 1), np.float32)
    patches[...] = AIR
    blend: _Blend | None = None
    for number, in_x in enumerate(along_x):
        voxels = place.voxels(image, in_x.begin)
        for first in range(0, len(spots), config.batch):
            batch = spots[first : first + config.batch]
            # In the last call, places without a window keep an earlier one.
            for patch, (in_y, in_z) in zip(patches[..., 0], batch, strict=False):
                _copy(
                    voxels[
                        :,
                        in_y.begin : in_y.begin + config.size[1],
                        in_z.begin : in_z.begin + config.size[2],
                    ],
                    patch,
                )
            logits = np.asarray(logits_fn(patches))
            if logits.shape[:-1] != patches.shape[:-1]:
                raise ValueError(
                    f"the network returned logits of shape {logits.shape} "
                    f"for windows of shape {patches.shape}"
                )
            if blend is None:
                blend = _Blend(config.size, covered[1:], logits.shape[-1])
            for slot, (in_y, in_z) in enumerate(batch):
                blend.add((in_x, in_y, in_z), logits[slot])
            # The next call of the network can then reuse the same memory, which is still cached.
            del logits
        assert blend is not None  # there is at least one window
        end = along_x[number + 1].begin if number + 1 < len(along_x) else covered[0]
        for start, finished in blend.planes(
            max(in_x.begin, inside[0].start), min(end, inside[0].stop)
        ):
            yield start - before[0], finished[:, inside[1], inside[2]]


@dataclasses.dataclass(frozen=True)
class _HostSlab:
    """Blended logits of some planes as an array, see `slabs`."""

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def logits(self) -> np.ndarray:
        return self.values

    def mask(self) -> np.ndarray:
        mask = np.empty(self.values.shape[:-1], dtype=np.uint8)
        in_parallel(
            lambda planes: window_kernels.likeliest(self.values[planes], mask[planes]), len(mask)
        )
        return mask


def blended(
    image: np.ndarray, logits_fn: LogitsFn, config: WindowConfig
) -> Iterator[tuple[int, BlendedSlab]]:
    """Yields what `slabs` does, blended by the network itself where it can.

    Arguments and errors are those of `slabs`.
    """
    own = logits_fn.slabs(image, config) if isinstance(logits_fn, BlendingNetwork) else None
    if own is not None:
        yield from own
        return
    for x, logits in slabs(image, logits_fn, config):
        yield x, _HostSlab(logits)


@dataclasses.dataclass(frozen=True)
class AxisWindow:
    """One position of the window along one axis.

    Attributes:
      begin: its first voxel.
      fresh: first voxel within the window that no earlier window along the axis covers.
      weights: float32 [window], see `normalised_weights`.
    """

    begin: int
    fresh: int
    weights: np.ndarray


def _axis_windows(length: int, window: int, config: WindowConfig) -> list[AxisWindow]:
    """Returns the windows of one axis in order."""
    begins = starts(length, window, config.overlap)
    ends = [0, *(begin + window for begin in begins)]
    weights = normalised_weights(length, window, config.overlap, config.blending)
    return [
        AxisWindow(begin, end - begin, own)
        for begin, end, own in zip(begins, ends, weights, strict=False)
    ]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the windows of a volume are.

    Attributes:
      size: x, y, z of a window in voxels, fitted to the volume.
      covered: x, y, z of the volume with the air around it, at least `size`.
      before: layers of air before the volume along each axis.
      inside: the volume within `covered`.
      along: the windows of each axis in order.
    """

    size: tuple[int, int, int]
    covered: tuple[int, ...]
    before: tuple[int, ...]
    inside: tuple[slice, ...]
    along: tuple[Sequence[AxisWindow], ...]

    def voxels(self, image: np.ndarray, x: int) -> np.ndarray:
        """Returns the voxels that the windows starting at x see, float32 [thickness, y, z].

        They are converted once, not once per window.
        """
        thickness = self.size[0]
        if tuple(image.shape) == tuple(self.covered):
            return np.asarray(image[x : x + thickness], dtype=np.float32, order="C")
        voxels = np.full((thickness, *self.covered[1:]), AIR, dtype=np.float32)
        if image.shape[0] == self.covered[0]:
            voxels[:, self.inside[1], self.inside[2]] = image[x : x + thickness]
        else:
            voxels[self.inside] = image
        return voxels


def placement(shape: Sequence[int], config: WindowConfig) -> Placement:
    """Returns where the windows of a volume of `shape` are.

    Raises:
      ValueError: if the volume does not have three axes.
    """
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"image has shape {tuple(shape)}; expected voxels along x, y and z")
    config = config.fitted(shape)
    covered = tuple(max(n, window) for n, window in zip(shape, config.size, strict=True))
    before = tuple((n - own) // 2 for n, own in zip(covered, shape, strict=True))
    inside = tuple(slice(first, first + n) for first, n in zip(before, shape, strict=True))
    along = tuple(
        _axis_windows(n, window, config) for n, window in zip(covered, config.size, strict=True)
    )
    return Placement(config.size, covered, before, inside, along)


def check_finite(finite: bool) -> None:
    """Raises ValueError unless all logits of a window are finite."""
    if not finite:
        raise ValueError(
            "the network returned logits that are not finite; "
            "use weights of a training that went well"
        )


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    in_parallel(lambda planes: np.copyto(target[planes], source[planes]), len(target))


class _Blend:
    """Sums of weighted logits, for the x planes to which windows still contribute.

    Plane x lies at index x modulo the thickness of the window.
    """

    def __init__(self, window: Sequence[int], plane: Sequence[int], classes: int):
        # Every value is set before it is read, see `AxisWindow.fresh`.
        self._sums = np.empty((window[0], *plane, classes), dtype=np.float32)

    def add(self, window: Sequence[AxisWindow], logits: np.ndarray) -> None:
        """Adds the logits of a window. Windows must come in the order of `slabs`.

        Args:
          window: position along x, y and z.
          logits: float [x, y, z, classes].
        """
        in_x, in_y, in_z = window
        thickness, height, _, classes = logits.shape
        # z and classes as one axis, because they are contiguous in memory
        arguments = (
            self._sums.reshape(*self._sums.shape[:2], -1),
            np.ascontiguousarray(logits, np.float32).reshape(thickness, height, -1),
            (in_x.weights, in_y.weights, np.repeat(in_z.weights, classes)),
            (in_x.begin, in_y.begin, in_z.begin * classes),
            (in_x.fresh, in_y.fresh, in_z.fresh * classes),
        )
        check_finite(
            all(
                in_parallel(
                    lambda planes: window_kernels.add_weighted(
                        *arguments, planes.start, planes.stop
                    ),
                    thickness,
                )
            )
        )

    def planes(self, begin: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (x, planes from x on [n, y, z, classes]) for x from `begin` to `end` - 1."""
        while begin < end:
            place = begin % len(self._sums)
            count = min(end - begin, len(self._sums) - place)
            yield begin, self._sums[place : place + count]
            begin += count


def in_parallel(work: Callable[[slice], _Result], count: int) -> list[_Result]:
    """Splits the range 0 to `count` into parts and calls `work` with each, at the same time.

    NumPy and compiled kernels release the interpreter while they compute. The results must not
    depend on how the range is split.

    Returns:
      The result of each call, in the order of the parts.
    """
    edges = [count * part // _BLENDERS for part in range(_BLENDERS + 1)]
    own, *others = (slice(*span) for span in itertools.pairwise(edges))
    waiting = [_pool().submit(work, part) for part in others]
    return [work(own), *(part.result() for part in waiting)]


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(max(1, _BLENDERS - 1), thread_name_prefix="blend")


def predict_logits(image: np.ndarray, logits_fn: LogitsFn, config: WindowConfig) -> np.ndarray:
    """Returns the blended logits of a whole volume, float32 [x, y, z, classes].

    Arguments and errors are those of `slabs`.
    """
    logits = np.empty(0, dtype=np.float32)
    for x, slab in blended(image, logits_fn, config):
        part = slab.logits()
        if not logits.size:
            logits = np.empty((*image.shape, part.shape[-1]), dtype=np.float32)
        logits[x : x + len(part)] = part
    return logits


def predict_probabilities(
    image: np.ndarray, logits_fn: LogitsFn, config: WindowConfig
) -> np.ndarray:
    """Returns the softmax of the blended logits, float32 [x, y, z, classes].

    Arguments and errors are those of `slabs`.
    """
    values = predict_logits(image, logits_fn, config)
    values -= values.max(axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=-1, keepdims=True)
    return values
