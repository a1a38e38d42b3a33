"""Orientation: array axes brought to right-anterior-superior and back, by permutation and flips only."""

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
    """Returns the permutation and flips that bring an affine closest to RAS+; an oblique volume stays as oblique as it is."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axes = max(itertools.permutations(range(3)), key=lambda order: sum(abs(directions[i, order[i]]) for i in range(3)))
    return Orientation(axes, tuple(bool(directions[i, axes[i]] < 0) for i in range(3)))


def to_ras(volume: Volume) -> Volume:
    """Returns the volume in RAS+ order, a view of the same voxels, with the affine that keeps each at its place."""
    turn = orientation(volume.affine)
    array = _flipped(volume.array.transpose(turn.axes), turn.flips)
    return Volume(array, ras_grid(volume.grid).affine)


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


def from_ras(array: np.ndarray, native: Grid) -> np.ndarray:
    """Returns an array in RAS+ order of a native grid's volume in the native order: the way back from `to_ras`."""
    turn = orientation(native.affine)
    return _flipped(array, turn.flips).transpose(np.argsort(turn.axes))


def corner_displacement_mm(one: Grid, other: Grid) -> float:
    """Returns the largest distance between the same corner voxel of two grids of one shape, in mm."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in one.shape))), dtype=np.float64)
    corners = np.concatenate([corners, np.ones((8, 1))], axis=1)
    return float(np.linalg.norm((corners @ (one.affine - other.affine).T)[:, :3], axis=1).max())


def _flipped(array: np.ndarray, flips: tuple[bool, bool, bool]) -> np.ndarray:
    return array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
