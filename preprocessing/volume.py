"""A volume: an array with the place of its voxels in the patient."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
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
        """Distance of neighbouring voxel centres along each array axis."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclasses.dataclass(frozen=True)
class Volume:
    """Voxel values [x, y, z] and their affine, float64 [4, 4], voxel index -> mm in RAS+."""

    array: np.ndarray
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.array.shape

    @property
    def grid(self) -> Grid:
        return Grid(tuple(self.array.shape), self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.grid.spacing_mm
