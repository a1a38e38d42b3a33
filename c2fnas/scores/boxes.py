"""The bounding box of a mask, so that work on a few voxels need not visit a whole volume."""

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
