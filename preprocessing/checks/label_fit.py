"""How well a label fits a CT: the step in HU across its surface, divided by the spread of HU.

The inside of an organ is uniform, and the outside is different, mostly fat. A mirrored or moved
label lies across organs, fat and gas, and the step vanishes: on real and synthetic scans it is 0.7
to 2.3 in the right place and at most 0.5 elsewhere. It is computed from a few tens of thousands of
voxels around the label, at about 2 mm, whatever the size of the scan.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import TypeVar

import numpy as np
import scipy.fft

from preprocessing.axes import memory_order, mirrored, three

_STEP_MM = 2.0
_MARGIN_MM = 8.0  # margin around the label, for the shell
_SEARCH_MM = 48.0
_CLIP_HU = (-150.0, 200.0)  # gas and bone count as different, no matter how different
_FEWEST = 8  # least samples along an axis of the box, so that small labels are not thinned out
_SPREAD_HU = 10.0  # added to the spread, which is 0 in an image without noise
_FEWEST_VOXELS = 30  # a smaller label is inconclusive

Flip = tuple[bool, bool, bool]
FLIPS: tuple[Flip, ...] = tuple((x, y, z) for x, y, z in itertools.product((False, True), repeat=3))
Number = TypeVar("Number", float, np.ndarray)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A label thinned out to about 2 mm in the box around it.

    Attributes:
      label: uint8 [x, y, z].
      start, steps: voxel (i, j, k) of `label` is voxel start + steps * (i, j, k) of the volume.
      spacing_mm: distances between voxels of `label`.
    """

    label: np.ndarray
    start: tuple[int, int, int]
    steps: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def of(self, array: np.ndarray, flip: Flip = (False, False, False)) -> np.ndarray:
        """Returns the same voxels of another array of the volume's shape.

        Args:
          flip: axes along which the array is mirrored first.
        """
        box = (
            slice(a, a + n * s, s)
            for a, n, s in zip(self.start, self.label.shape, self.steps, strict=True)
        )
        return mirrored(array, flip)[tuple(box)]

    @functools.cached_property
    def sides(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Masks of the label and of the 4 mm shell around it; None if there are too few voxels.

        The shell does not extend along axes whose voxels are thicker than that.
        """
        inside = self.label > 0
        if np.count_nonzero(inside) < _FEWEST_VOXELS:
            return None
        around = inside.copy()
        for distance_mm in (_STEP_MM, 2 * _STEP_MM):
            for axis, spacing in enumerate(self.spacing_mm):
                if spacing <= max(distance_mm, _STEP_MM + 1):
                    before, line = around.copy().swapaxes(0, axis), around.swapaxes(0, axis)
                    line[1:] |= before[:-1]
                    line[:-1] |= before[1:]
        shell = around & ~inside
        return (inside, shell) if shell.any() else None


def sample(label: np.ndarray, spacing_mm: tuple[float, float, float]) -> Sample | None:
    """Returns a label's sample, None if the label is empty."""
    box = bounding_box(label, spacing_mm)
    if box is None:
        return None
    start, stop, steps = [], [], []
    for (low, high), size, spacing in zip(box, label.shape, spacing_mm, strict=True):
        step = max(1, min(round(_STEP_MM / spacing), (high - low) // _FEWEST))
        margin = int(np.ceil(_MARGIN_MM / spacing))
        start.append(max(0, low - margin))
        stop.append(min(size, high + margin))
        steps.append(step)
    thinned = label[tuple(slice(a, b, s) for a, b, s in zip(start, stop, steps, strict=True))]
    return Sample(
        np.asfortranarray(thinned),
        three(start),
        three(steps),
        three(s * mm for s, mm in zip(steps, spacing_mm, strict=True)),
    )


def bounding_box(
    label: np.ndarray, spacing_mm: tuple[float, float, float]
) -> list[tuple[int, int]] | None:
    """Returns (first, last + 1) of the voxels above 0 along each axis, None if there are none.

    Only slabs 2 mm apart are searched, so the box may be up to 2 mm too short at both ends of the
    axis that is slowest in memory. A thinner label is still found.
    """
    order = memory_order(label)
    backwards = [label.strides[axis] < 0 for axis in order]
    # In memory order, so that whole slabs are contiguous; as bool, because its `any` takes 16 bytes
    # at a time and stops at the first hit.
    view = mirrored(label.view(np.bool_).transpose(order), backwards)
    stride = max(1, round(_STEP_MM / spacing_mm[order[0]]))
    hit = [k for k in range(0, len(view), stride) if view[k].any()]
    if not hit and stride > 1:
        hit = [k for k in range(len(view)) if view[k].any()]
    if not hit:
        return None
    plane = view[hit[0]].copy()
    for k in hit[1:]:
        plane |= view[k]
    spans = [(hit[0], hit[-1] + 1)]
    for other in (1, 0):
        line = np.flatnonzero(plane.any(axis=other))
        spans.append((int(line[0]), int(line[-1]) + 1))
    found: dict[int, tuple[int, int]] = {}
    for axis, size, back, (low, high) in zip(order, view.shape, backwards, spans, strict=True):
        found[int(axis)] = (size - high, size - low) if back else (low, high)
    return [found[axis] for axis in range(3)]


def goodness_of_fit(
    image: np.ndarray, where: Sample, flip: Flip = (False, False, False)
) -> float | None:
    """Returns the fit: the step across the label's surface divided by the spread.

    It is None if the label has too few voxels.

    Args:
      image: HU [x, y, z] on the label's grid.
      flip: axes along which the image is mirrored first, to see whether the mirrored label fits.
    """
    if where.sides is None:
        return None
    inside, shell = where.sides
    hu = np.clip(where.of(image, flip), *_CLIP_HU).astype(np.float32)
    within, around = hu[inside], hu[shell]
    return float(_step((within.mean(), within.var()), (around.mean(), around.var())))


def fits(image: np.ndarray, where: Sample) -> dict[Flip, float]:
    """Returns the fit of each of the eight mirror images, best first.

    It is empty if the label has too few voxels.
    """
    found = {
        flip: value for flip in FLIPS if (value := goodness_of_fit(image, where, flip)) is not None
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def best_shift(image: np.ndarray, where: Sample) -> tuple[float, tuple[float, float, float]] | None:
    """Returns the best fit within 48 mm of the label's place, and its shift in mm along x, y, z.

    It is None if the label has too few voxels.
    """
    if where.sides is None:
        return None
    inside, shell = where.sides
    low = [
        min(a // s, int(_SEARCH_MM / mm))
        for a, s, mm in zip(where.start, where.steps, where.spacing_mm, strict=True)
    ]
    room = [
        (n - 1 - a) // s + 1 - m
        for a, s, n, m in zip(where.start, where.steps, image.shape, where.label.shape, strict=True)
    ]  # samples beyond the box
    high = [
        max(0, min(r, int(_SEARCH_MM / mm))) for r, mm in zip(room, where.spacing_mm, strict=True)
    ]
    wide = tuple(
        slice(a - b * s, a + (m + e - 1) * s + 1, s)
        for a, s, b, e, m in zip(
            where.start, where.steps, low, high, where.label.shape, strict=True
        )
    )
    hu = np.clip(image[wide], *_CLIP_HU).astype(np.float32)
    hu -= hu.mean()  # so that float32 sums of squares are exact enough
    size = [scipy.fft.next_fast_len(n, real=True) for n in hu.shape]
    spectra = [scipy.fft.rfftn(values, size) for values in (hu, hu * hu)]
    moments = []
    for mask in (inside, shell):
        kernel = np.conj(scipy.fft.rfftn(mask.astype(np.float32), size))
        valid = tuple(slice(0, n - m + 1) for n, m in zip(hu.shape, mask.shape, strict=True))
        mean, square = (
            scipy.fft.irfftn(s * kernel, size)[valid] / np.count_nonzero(mask) for s in spectra
        )
        moments.append((mean, np.maximum(square - mean**2, 0.0)))
    steps = _step(moments[0], moments[1])
    at = np.unravel_index(int(np.argmax(steps)), steps.shape)
    shift = three(float((i - b) * mm) for i, b, mm in zip(at, low, where.spacing_mm, strict=True))
    return float(steps[at]), shift


def _step(inside: tuple[Number, Number], outside: tuple[Number, Number]) -> Number:
    """Returns the fit from mean and variance on both sides of the surface."""
    (mean, variance), (other_mean, other_variance) = inside, outside
    return (mean - other_mean) / np.sqrt(variance + other_variance + _SPREAD_HU**2)
