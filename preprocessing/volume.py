"""A volume: an array and where its voxels lie in the patient."""

from __future__ import annotations

import dataclasses

import numpy as np

from preprocessing import axes
from preprocessing.rules import IntegrityError


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """The positions of a volume's voxels.

    Attributes:
      shape: voxels along x, y, z of the array.
      affine: float64 [4, 4], voxel index -> mm in RAS+.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis: the column norms of the affine."""
        return axes.three(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values and where they lie.

    Attributes:
      array: [x, y, z]; HU for a CT (float32 or int16), classes for labels (uint8). Axis i is column
          i of `affine`.
      affine: float64 [4, 4], voxel index -> mm in RAS+.
      placed: False if the file gives no orientation: the directions of the axes were given
        separately, and the origin is arbitrary.
      warnings: unusual properties that the reader found, as rules of severity "warning".
    """

    array: np.ndarray
    affine: np.ndarray
    placed: bool = True
    warnings: tuple[IntegrityError, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "affine", np.asarray(self.affine, dtype=np.float64))
        if self.array.ndim != 3 or self.affine.shape != (4, 4):
            raise ValueError(
                f"array {self.array.shape} with affine {self.affine.shape}; "
                "a volume has three axes and a 4 x 4 affine"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return axes.three(self.array.shape)

    @property
    def grid(self) -> Grid:
        return Grid(self.shape, self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.grid.spacing_mm
