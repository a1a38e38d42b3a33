"""Orientation: array axes brought to right-anterior-superior and back, by permutation and flips only.

No voxel value changes and the way back is exact. An oblique scan stays as oblique as it is: its axes are named after the patient
axis they run closest to.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from preprocessing.volume import Grid, Volume


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How native array axes become R, A, S.

    Attributes:
      axes: axes[i] is the native axis that becomes axis i.
      flips: flips[i] says whether axis i runs backwards after the permutation.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]


def orientation(affine: np.ndarray) -> Orientation:
    """Returns the permutation and flips that bring an affine closest to RAS+.

    Of the six assignments of array axes to patient axes it is the one with the largest sum of absolute direction cosines; of equal
    ones (an axis at 45 degrees) the one that leaves the earliest axes in place.

    Raises:
      ValueError: if an axis has no direction.
    """
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(matrix).all() or not (lengths > 0).all():
        raise ValueError(f"affine {matrix.tolist()} gives an axis no direction; write a valid sform or qform into the header")
    directions = matrix / lengths
    # rounded: sums that are equal but for the last bits must be equal on every machine
    axes = max(itertools.permutations(range(3)), key=lambda order: round(sum(abs(directions[i, order[i]]) for i in range(3)), 9))
    return Orientation(axes, tuple(bool(directions[i, axes[i]] < 0) for i in range(3)))


def to_ras(volume: Volume) -> Volume:
    """Returns the volume in RAS+ order, a view of the same voxels, with the affine that keeps each at its place."""
    return Volume(to_ras_order(volume.array, volume.grid), ras_grid(volume.grid).affine)


def ras_grid(grid: Grid) -> Grid:
    """Returns the grid of `to_ras` without touching a voxel."""
    turn = orientation(grid.affine)
    shape = tuple(grid.shape[axis] for axis in turn.axes)
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, list(turn.axes)]
    for axis, flip in enumerate(turn.flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    return Grid(shape, affine)


def to_ras_order(array: np.ndarray, native: Grid) -> np.ndarray:
    """Returns an array of a native grid in RAS+ order: a view."""
    turn = orientation(native.affine)
    return _flipped(array.transpose(turn.axes), turn.flips)


def from_ras(array: np.ndarray, native: Grid) -> np.ndarray:
    """Returns an array in RAS+ order in the order of the native grid: a view, the way back from `to_ras`."""
    turn = orientation(native.affine)
    return _flipped(array, turn.flips).transpose(np.argsort(turn.axes))


def corner_displacement_mm(one: Grid, other: Grid) -> float:
    """Returns the largest distance between the same corner voxel of two grids of one shape, in mm.

    One number for a shift, a rotation or another spacing: no voxel lies further from where the other grid has it.
    """
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in one.shape))])
    return float(np.linalg.norm((corners @ (one.affine - other.affine).T)[:, :3], axis=1).max())


def _flipped(array: np.ndarray, flips: tuple[bool, bool, bool]) -> np.ndarray:
    return array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
