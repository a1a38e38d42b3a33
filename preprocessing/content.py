"""What the voxels say about a scan and its label, whatever their headers say."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from preprocessing import rules
from preprocessing.rules import IntegrityError, broken
from preprocessing.volume import Volume

_TISSUE_SHARE = 0.01  # a patient fills a third of a field of view; raw detector values and swapped files fall far below


def check(image: Volume, label: Volume, names: tuple[str, str], *, accepted: Collection[str] = ()) -> list[IntegrityError]:
    """Checks voxels of a scan and a label on one grid, both in RAS+.

    Returns, raises: as `integrity.check_case`.
    """
    image_name, label_name = names
    sample = image.array[::3, ::3, ::3]
    lowest, highest = float(sample.min()), float(sample.max())
    if lowest >= 0 or np.mean((sample > -200) & (sample < 300)) < _TISSUE_SHARE:
        raise broken(rules.NOT_HU, image_name, f"values from {lowest:g} to {highest:g} are not the HU of an abdomen")
    if not np.any(label.array):
        raise broken(rules.EMPTY, label_name, "no voxel is labelled")
    return []
