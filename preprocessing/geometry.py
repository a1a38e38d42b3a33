"""Orientation: array axes brought to right-anterior-superior and back, by permutation and flips
only.

No voxel value changes and the way back is exact. An oblique scan stays as oblique as it is: its
axes are named after the patient axis they run closest to.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from preprocessing.volume import Grid, Volume

_DIRECTIONS = ("RL", "AP", "SI")  # of x, y and z: where the positive axis runs, and the other way


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

    Of the six assignments of array axes to patient axes it is the one with the largest sum of
    absolute direction cosines; of equal ones (an axis at 45 degrees) the one that leaves the
    earliest axes in place.

    Raises:
      ValueError: if an axis has no direction.
    """
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(matrix).all() or not (lengths > 0).all():
        raise ValueError(
            f"affine {matrix.tolist()} gives an axis no direction; write a valid sform or qform into the header"
        )
    directions = matrix / lengths
    # rounded: sums that are equal but for the last bits must be equal on every machine
    axes = max(
        itertools.permutations(range(3)),
        key=lambda order: round(sum(abs(directions[i, order[i]]) for i in range(3)), 9),
    )
    return Orientation(axes, tuple(bool(directions[i, axes[i]] < 0) for i in range(3)))


def affine_of_axes(axes: str, shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Returns the affine of a volume of which only the directions of its axes are known; its middle
    lies at the origin.

    Args:
      axes: where each array axis runs, e.g. "LPS": towards the left, towards the back, upwards.
    Raises:
      ValueError: if `axes` does not name each direction of the patient once.
    """
    require_axes(axes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (letter, length) in enumerate(zip(axes.upper(), spacing_mm, strict=True)):
        patient, backwards = next(
            (i, pair.index(letter)) for i, pair in enumerate(_DIRECTIONS) if letter in pair
        )
        affine[patient, axis] = -length if backwards else length
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def require_axes(axes: str) -> None:
    """Raises ValueError where `axes` does not name each direction of the patient once, e.g. "LPS"."""
    named = sorted(
        i for letter in axes.upper() for i, pair in enumerate(_DIRECTIONS) if letter in pair
    )
    if len(axes) != 3 or named != [0, 1, 2]:
        raise ValueError(
            f"orientation is {axes!r}; expected where the three axes of the array run: one of R and L, one of A and P, one of S and I, e.g. LPS"
        )


def at_place_of(volume: Volume, other: Volume) -> Volume:
    """Returns `volume` where `other` lies if one of the two has no place of its own, its own axes
    kept; else as it is.

    Two volumes of one patient are meant, e.g. a scan and its label. Where shape or spacing differ
    they stay apart.
    """
    own, there = ras_grid(volume.grid), ras_grid(other.grid)
    if (
        volume.placed == other.placed
        or own.shape != there.shape
        or not np.allclose(own.spacing_mm, there.spacing_mm, rtol=1e-3)
    ):
        return volume
    to_upright = np.rint(
        np.linalg.inv(own.affine) @ volume.affine
    )  # whole: a permutation of voxel indices
    return Volume(volume.array, there.affine @ to_upright, other.placed)


def to_ras(volume: Volume) -> Volume:
    """Returns the volume in RAS+ order, a view of the same voxels, with the affine that keeps each
    at its place.
    """
    return Volume(
        to_ras_order(volume.array, volume.grid), ras_grid(volume.grid).affine, volume.placed
    )


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
    """Returns an array in RAS+ order in the order of the native grid: a view, the way back from
    `to_ras`.
    """
    turn = orientation(native.affine)
    return _flipped(array, turn.flips).transpose(np.argsort(turn.axes))


def corner_displacement_mm(one: Grid, other: Grid) -> float:
    """Returns the largest distance between the same corner voxel of two grids of one shape, in mm.

    One number for a shift, a rotation or another spacing: no voxel lies further from where the
    other grid has it.
    """
    corners = np.array(
        [[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in one.shape))]
    )
    return float(np.linalg.norm((corners @ (one.affine - other.affine).T)[:, :3], axis=1).max())


def _flipped(array: np.ndarray, flips: tuple[bool, bool, bool]) -> np.ndarray:
    return array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
