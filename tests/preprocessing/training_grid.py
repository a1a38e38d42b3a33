"""The grid to which resampling brings a scan, computed independently of the product."""

import numpy as np

from preprocessing import resampling
from preprocessing.volume import Grid


def training_grid(grid: Grid, target_mm) -> Grid:
    """Returns a scan's grid in RAS+ with the same first voxel centre and directions, resampled."""
    affine = grid.affine.copy()
    affine[:3, :3] *= np.asarray(target_mm) / grid.spacing_mm
    return Grid(resampling.resampled_shape(grid.shape, grid.spacing_mm, target_mm), affine)
