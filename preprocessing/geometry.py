"""Orientation: brings array axes to right-anterior-superior (RAS+) and back.

This uses only permutations and flips: no voxel value changes, and the inverse is exact. An oblique
scan stays oblique; each of its axes is named after the closest patient axis.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from preprocessing.axes import mirrored, three
from preprocessing.volume import Grid, Volume

# For x, y and z: where the positive and the negative axis point.
_DIRECTIONS = ("RL", "AP", "SI")


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How native array axes become R, A, S.

    Attributes:
      axes: axes[i] is the native axis that becomes axis i.
      flips: flips[i] says whether axis i runs backwards after the permutation.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]


def turn_to_ras(affine: np.ndarray) -> Orientation:
    """Returns the permutation and flips that bring an affine closest to RAS+.

    Of the six assignments of array axes to patient axes, it takes the one with the largest sum of
    absolute direction cosines; in a tie (an axis at 45 degrees), the one that leaves the earliest
    axes in place.

    Raises:
      ValueError: if the affine gives an axis no direction.
    """
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(matrix).all() or not (lengths > 0).all():
        raise ValueError(
            f"affine {matrix.tolist()} gives an axis no direction; "
            "write a valid sform or qform into the header"
        )
    directions = matrix / lengths
    # rounded, so that sums that differ only in the last bits are equal on every machine
    axes = max(
        itertools.permutations(range(3)),
        key=lambda order: round(sum(abs(directions[i, order[i]]) for i in range(3)), 9),
    )
    return Orientation(three(axes), three(bool(directions[i, axes[i]] < 0) for i in range(3)))


def affine_of_axes(axes: str, shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Returns an affine for a volume of which only the axis directions are known.

    The centre of the volume lies at the origin.

    Args:
      axes: where each array axis points, e.g. "LPS": to the left, to the back, upwards.
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
    """Raises ValueError unless `axes` names each direction of the patient once, like "LPS"."""
    named = sorted(
        i for letter in axes.upper() for i, pair in enumerate(_DIRECTIONS) if letter in pair
    )
    if len(axes) != 3 or named != [0, 1, 2]:
        raise ValueError(
            f"orientation is {axes!r}; expected where the three axes of the array run: "
            "one of R and L, one of A and P, one of S and I, e.g. LPS"
        )


def at_place_of(volume: Volume, other: Volume) -> Volume:
    """Returns `volume` moved to the place of `other` if exactly one of the two is placed.

    They are two volumes of one patient, such as a scan and its label. The axes of `volume` stay as
    they are. If both or neither are placed, or shape or spacing differ, it is returned unchanged.
    """
    own, there = ras_grid(volume.grid), ras_grid(other.grid)
    if (
        volume.placed == other.placed
        or own.shape != there.shape
        or not np.allclose(own.spacing_mm, there.spacing_mm, rtol=1e-3)
    ):
        return volume
    # whole numbers, because it permutes voxel indices
    to_upright = np.rint(np.linalg.inv(own.affine) @ volume.affine)
    return Volume(volume.array, there.affine @ to_upright, other.placed)


def to_ras(volume: Volume) -> Volume:
    """Returns the volume in RAS+ order: a view of the same voxels, each in the same place."""
    return Volume(
        to_ras_order(volume.array, volume.grid), ras_grid(volume.grid).affine, volume.placed
    )


def ras_grid(grid: Grid) -> Grid:
    """Returns the grid that `to_ras` gives a volume on `grid`."""
    turn = turn_to_ras(grid.affine)
    shape = three(grid.shape[axis] for axis in turn.axes)
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, list(turn.axes)]
    for axis, flip in enumerate(turn.flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    return Grid(shape, affine)


def to_ras_order(array: np.ndarray, native: Grid) -> np.ndarray:
    """Returns a view of an array on a native grid in RAS+ order."""
    turn = turn_to_ras(native.affine)
    return mirrored(array.transpose(turn.axes), turn.flips)


def from_ras(array: np.ndarray, native: Grid) -> np.ndarray:
    """Returns a view of an array in RAS+ order in the order of its native grid."""
    turn = turn_to_ras(native.affine)
    return mirrored(array, turn.flips).transpose(np.argsort(turn.axes))


def corner_displacement_mm(one: Grid, other: Grid) -> float:
    """Returns the largest distance in mm between corresponding corner voxels of two grids.

    The grids have the same shape. The distance covers shift, rotation and spacing: no
    corresponding voxels lie further apart.
    """
    corners = np.array(
        [[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in one.shape))]
    )
    return float(np.linalg.norm((corners @ (one.affine - other.affine).T)[:, :3], axis=1).max())
