"""A whole volume through windows of one size: where they lie, how their logits are blended.

The windows form a grid, so the weights of all windows over a voxel add up to a product of three one-dimensional sums: the
normaliser is three vectors, and each window's weights are divided by it before they are used. Logits are blended, not
probabilities (as in MONAI and nnU-Net); the softmax comes after.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np

Blending = Literal["constant", "gaussian"]
LogitsFn = Callable[[np.ndarray], np.ndarray]  # float32 [n, x, y, z, 1] -> float32 [n, x, y, z, classes]
AIR = -1.0  # the lowest value of a scaled image, beyond the borders of a volume smaller than the window


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Size in voxels, overlap of neighbours as a share of the size, weights within a window, windows per call."""

    size: tuple[int, int, int]
    overlap: float = 0.25
    blending: Blending = "constant"
    batch: int = 1

    def __post_init__(self):
        object.__setattr__(self, "size", tuple(int(n) for n in self.size))
        if len(self.size) != 3 or min(self.size) < 1:
            raise ValueError(f"window size is {self.size}; expected three numbers of voxels above 0")
        if not 0.0 <= self.overlap < 1.0:
            raise ValueError(f"overlap is {self.overlap}; expected a share from 0 up to, not including, 1")
        if self.blending not in get_args(Blending):
            raise ValueError(f"blending is {self.blending!r}; expected one of {', '.join(get_args(Blending))}")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; expected at least 1")


def starts(length: int, window: int, overlap: float) -> tuple[int, ...]:
    """Returns where the windows of one axis begin, in voxels.

    They are int(window * (1 - overlap)) voxels apart, at least one; the last is moved inside, so that it ends with the axis.
    An axis not longer than the window has one, at 0.
    """
    interval = max(1, int(window * (1.0 - overlap)))
    last = max(0, length - window)
    return tuple(min(index * interval, last) for index in range(math.ceil(last / interval) + 1))


def axis_weights(window: int, blending: Blending) -> np.ndarray:
    """Returns float64 [window], the weights of a window along one axis: 1, or a Gaussian with sigma = window / 8."""
    if blending == "constant":
        return np.ones(window)
    offset = np.arange(window) - (window - 1) / 2.0
    return np.exp(-0.5 * np.square(offset / (window / 8.0)))


def normalised_weights(length: int, window: int, overlap: float, blending: Blending) -> tuple[np.ndarray, ...]:
    """Returns float32 [window] for each window of an axis; over every voxel of the axis they add up to 1."""
    weights, total = axis_weights(window, blending), np.zeros(length)
    begins = starts(length, window, overlap)
    for begin in begins:
        total[begin : begin + window] += weights
    return tuple((weights / total[begin : begin + window]).astype(np.float32) for begin in begins)


def slabs(image: np.ndarray, logits_fn: LogitsFn, config: WindowConfig) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first x, blended logits float32 [n, y, z, classes]) along x, until the volume is covered.

    Memory is one slab as thick as the window, whatever the length of the volume. A slab is valid until the next is asked for.

    Args:
      image: float [x, y, z], scaled to [-1, 1]; smaller than the window along an axis, it is padded there with -1 on both
        sides and cropped again.
      logits_fn: called with float32 [config.batch, *config.size, 1], always this shape.
    Raises:
      ValueError: if the image has not three axes, or what logits_fn returns has another grid or is not finite.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; expected voxels along x, y and z")
    padded, begin = _pad(image, config.size)
    crop_y, crop_z = (slice(begin[axis], begin[axis] + image.shape[axis]) for axis in (1, 2))
    begins = [starts(n, size, config.overlap) for n, size in zip(padded.shape, config.size, strict=True)]
    weights = [normalised_weights(n, size, config.overlap, config.blending) for n, size in zip(padded.shape, config.size, strict=True)]
    in_plane = [
        (y, z, weights_y[:, np.newaxis] * weights_z)
        for (y, weights_y), (z, weights_z) in itertools.product(
            zip(begins[1], weights[1], strict=True), zip(begins[2], weights[2], strict=True)
        )
    ]
    patches = np.empty((config.batch, *config.size, 1), dtype=np.float32)
    slab = weighted = None
    for number, (x, weights_x) in enumerate(zip(begins[0], weights[0], strict=True)):
        for first in range(0, len(in_plane), config.batch):
            batch = in_plane[first : first + config.batch]
            for slot, (y, z, _) in enumerate(batch):
                patches[slot, ..., 0] = padded[_box((x, y, z), config.size)]
            logits = np.asarray(logits_fn(patches))
            if logits.shape[:-1] != patches.shape[:-1]:
                raise ValueError(f"the network returned logits of shape {logits.shape} for windows of shape {patches.shape}")
            if slab is None:
                slab = np.zeros((config.size[0], *padded.shape[1:], logits.shape[-1]), dtype=np.float32)
                weighted = np.empty(logits.shape[1:], dtype=np.float32)
            for slot, (y, z, plane) in enumerate(batch):
                np.multiply(logits[slot], (weights_x[:, np.newaxis, np.newaxis] * plane)[..., np.newaxis], out=weighted)
                slab[:, y : y + config.size[1], z : z + config.size[2]] += weighted
        done = (begins[0][number + 1] if number + 1 < len(begins[0]) else padded.shape[0]) - x
        # The voxels before the next window's begin are finished; padding along x exists only where there is one window.
        finished = slab[begin[0] : begin[0] + image.shape[0]] if padded.shape[0] != image.shape[0] else slab[:done]
        if not np.isfinite(finished.sum()):
            raise ValueError("the network returned logits that are not finite; use weights of a training that went well")
        yield x, finished[:, crop_y, crop_z]
        slab[:-done] = slab[done:]
        slab[-done:] = 0.0


def predict_logits(image: np.ndarray, logits_fn: LogitsFn, config: WindowConfig) -> np.ndarray:
    """Returns the blended logits of a whole volume, float32 [x, y, z, classes]; arguments and errors as for `slabs`."""
    logits = None
    for x, slab in slabs(image, logits_fn, config):
        if logits is None:
            logits = np.empty((*image.shape, slab.shape[-1]), dtype=np.float32)
        logits[x : x + len(slab)] = slab
    return logits


def predict_probabilities(image: np.ndarray, logits_fn: LogitsFn, config: WindowConfig) -> np.ndarray:
    """Returns the softmax of the blended logits, float32 [x, y, z, classes]; arguments and errors as for `slabs`."""
    values = predict_logits(image, logits_fn, config)
    values -= values.max(axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=-1, keepdims=True)
    return values


def _pad(image: np.ndarray, size: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the image padded to at least `size`, and how many voxels stand before it on each axis."""
    missing = [max(0, window - n) for n, window in zip(image.shape, size, strict=True)]
    before = tuple(n // 2 for n in missing)
    if not any(missing):
        return image, before
    widths = [(first, n - first) for first, n in zip(before, missing, strict=True)]
    return np.pad(image, widths, constant_values=AIR), before


def _box(begin: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + n) for first, n in zip(begin, size, strict=True))
