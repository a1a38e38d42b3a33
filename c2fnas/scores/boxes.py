"""The bounding box of a mask, so that work on a few voxels need not visit a whole volume.

Within the box, a mask with a border of zeros can be read as one row of bytes: a neighbour of a
voxel lies at a fixed distance, and one beyond the box is 0.
"""

from __future__ import annotations

import numpy as np

Box = tuple[slice, slice, slice]


def around(mask: np.ndarray) -> Box | None:
    """Returns the smallest box around all voxels of a mask [x, y, z] that are not 0.

    None if there is no such voxel.
    """
    box: list[slice] = []
    for axis in range(3):  # within the box along the previous axes
        hit = np.flatnonzero(mask[tuple(box)].any(axis=tuple({0, 1, 2} - {axis})))
        if not len(hit):
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    x, y, z = box
    return x, y, z


def padded(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, bool [x, y, z], with a border of zeros one voxel thick, in C order."""
    result = np.zeros([n + 2 for n in mask.shape], dtype=bool)
    result[1:-1, 1:-1, 1:-1] = mask
    return result
