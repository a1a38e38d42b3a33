"""A volume: an array with the place of its voxels in the patient."""

from __future__ import annotations

import dataclasses

import numpy as np

from preprocessing.checks.rules import IntegrityError


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie.

    Attributes:
      shape: voxels along x, y, z of the array.
      affine: float64 [4, 4], voxel index -> mm in RAS+.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along each array axis: the column norms of the
        affine.
        """
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values with their place.

    Attributes:
      array: [x, y, z]; HU for a CT (float32 or int16), classes for labels (uint8). Axis i is column
          i of `affine`.
      affine: float64 [4, 4], voxel index -> mm in RAS+.
      placed: False where the file does not say where it lies: the directions of the axes were given
        beside it, the origin is arbitrary.
      warnings: what its reader found unusual in the file: rules of severity "warning".
    """

    array: np.ndarray
    affine: np.ndarray
    placed: bool = True
    warnings: tuple[IntegrityError, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "affine", np.asarray(self.affine, dtype=np.float64))
        if self.array.ndim != 3 or self.affine.shape != (4, 4):
            raise ValueError(
                f"array {self.array.shape} with affine {self.affine.shape}; a volume has three axes and a 4 x 4 affine"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.array.shape

    @property
    def grid(self) -> Grid:
        return Grid(tuple(self.array.shape), self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.grid.spacing_mm
