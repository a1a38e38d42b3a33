"""The smallest box that holds all voxels of a mask: what is done to a few voxels need not walk over
a whole volume.
"""

from __future__ import annotations

import numpy as np

Box = tuple[slice, slice, slice]


def around(mask: np.ndarray) -> Box | None:
    """Returns the box of the voxels that are not 0 in a mask [x, y, z], or None where there is
    none.
    """
    box: list[slice] = []
    for axis in range(3):  # within what the axes before left over
        hit = np.flatnonzero(mask[tuple(box)].any(axis=tuple({0, 1, 2} - {axis})))
        if not len(hit):
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)
