"""Smooth random deformation of a scan, without folds, that leaves the scan's faces in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from preprocessing.axes import three
from preprocessing.phantom.space import lumps

DEVIATION_MM, SCALE_MM = 5.0, 120.0
_STEP_MM = 4.0
_TAPER_MM = 40.0  # distance from a face over which the displacement grows to its full size
_STEEPEST = 0.9
_SLAB = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """A displacement field: the deformed scan shows at x what the scan shows at x + offset(x).

    Attributes:
      offsets_mm: float32 [3, i, j, k], along the array's axes, on a grid from the first voxel
          centre to the last; linear in between.
      extent_mm: distance between first and last voxel centre along each axis.
    """

    offsets_mm: np.ndarray
    extent_mm: tuple[float, float, float]

    @property
    def steps_mm(self) -> tuple[float, float, float]:
        """Spacing of the grid of offsets."""
        return three(
            e / (n - 1) for e, n in zip(self.extent_mm, self.offsets_mm.shape[1:], strict=True)
        )

    def steepness(self) -> float:
        """Returns the maximum over components i and places of sum_j |d offset_i / d x_j|.

        Below 1, the field has no folds. Within a cell of the grid, each derivative is a mean of the
        differences along four edges of the cell, so the largest of these bounds it. With row sums
        below 1, the Jacobian of x + offset(x) is strictly diagonally dominant with a positive
        diagonal, so its determinant is positive everywhere. The offset is then a contraction in the
        maximum norm, so no two places show the same place of the scan.
        """
        total: np.ndarray | float = 0.0
        for axis, step in enumerate(self.steps_mm):
            slope = np.abs(np.diff(self.offsets_mm, axis=1 + axis)) / step
            for other in {0, 1, 2} - {axis}:
                ahead = np.moveaxis(slope, 1 + other, 0)
                slope = np.moveaxis(np.maximum(ahead[1:], ahead[:-1]), 0, 1 + other)
            total = total + slope
        return float(np.max(total))


def draw(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    *,
    deviation_mm: float = DEVIATION_MM,
    scale_mm: float = SCALE_MM,
) -> Field:
    """Returns a random displacement field for a scan.

    The field is a sum of cubic B-splines, `scale_mm` / 2 apart, with independent normal
    coefficients. It has bumps about `scale_mm` wide and a standard deviation of `deviation_mm`
    along each axis, and is tapered to 0 at the scan's faces. If it is steeper than 0.9 (see
    `Field.steepness`), it is scaled down as a whole.
    """
    extent = three((n - 1) * s for n, s in zip(shape, spacing_mm, strict=True))
    if min(extent) <= 0:
        raise ValueError(
            f"shape is {tuple(shape)}; a scan to deform has at least two voxels along each axis"
        )
    points = three(int(np.ceil(e / _STEP_MM)) + 1 for e in extent)
    steps = three(e / (n - 1) for e, n in zip(extent, points, strict=True))
    taper: np.ndarray = np.ones((1, 1, 1), np.float32)
    for axis, (n, step, length) in enumerate(zip(points, steps, extent, strict=True)):
        place = step * np.arange(n)
        depth = np.clip(np.minimum(place, length - place) / min(_TAPER_MM, length / 2), 0.0, 1.0)
        taper = taper * (depth**2 * (3.0 - 2.0 * depth)).astype(np.float32).reshape(
            [n if a == axis else 1 for a in range(3)]
        )
    offsets = np.stack(
        [lumps(points, steps, scale_mm, rng) * np.float32(deviation_mm) * taper for _ in range(3)]
    )
    field = Field(offsets, extent)
    steepness = field.steepness()
    return (
        field
        if steepness <= _STEEPEST
        else Field(offsets * np.float32(_STEEPEST / steepness), extent)
    )


def warp(array: np.ndarray, field: Field, *, mask: bool = False) -> np.ndarray:
    """Returns the deformed array in the same shape and type.

    A CT is interpolated with cubic splines, which keep its noise, and stays within its own range. A
    mask is interpolated linearly and true from 0.5.

    Args:
      array: [x, y, z]: a CT or, if `mask` is true, bool.
    """
    source = array.astype(np.float32)
    if not mask:
        source = ndimage.spline_filter(source, order=3, output=np.float32, mode="mirror")
    result = np.empty(array.shape, array.dtype)
    spacing = [e / (n - 1) for e, n in zip(field.extent_mm, array.shape, strict=True)]
    lowest, highest = (0, 1) if mask else (int(array.min()), int(array.max()))
    for first in range(0, array.shape[2], _SLAB):
        axes = [
            np.arange(array.shape[0]),
            np.arange(array.shape[1]),
            np.arange(first, min(first + _SLAB, array.shape[2])),
        ]
        index = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        coarse = [
            index[a] * np.float32((field.offsets_mm.shape[1 + a] - 1) / (array.shape[a] - 1))
            for a in range(3)
        ]
        for axis in range(3):
            # the offsets of every axis are read at the undeformed places
            index[axis] += ndimage.map_coordinates(
                field.offsets_mm[axis], coarse, order=1, mode="nearest"
            ) / np.float32(spacing[axis])
        values = ndimage.map_coordinates(
            source, index, order=1 if mask else 3, mode="mirror", prefilter=False
        )
        result[:, :, first : first + _SLAB] = (
            values >= 0.5 if mask else np.rint(np.clip(values, lowest, highest))
        )
    return result
