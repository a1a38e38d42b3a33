"""Recognises masks that a prediction wrote and nobody changed since.

A prediction replaces only such masks: any other may be the work of a reader, drawn or corrected by
hand.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

import numpy as np

from preprocessing import nifti, rules
from preprocessing.rules import IntegrityError

_MARK = "c2fnas prediction, voxels "  # followed by a hash; both fit into a header's 79 characters
_REMEDY = "move or rename it, or write to another place (predict --skip_existing keeps it)"


def description(mask: np.ndarray) -> str:
    """Returns the text for the header of a predicted mask, uint8 [x, y, z]."""
    return _MARK + hashlib.sha256(mask.tobytes("F")).hexdigest()[:32]


def is_own(path: str | os.PathLike) -> bool:
    """Returns whether a file is a mask with `description` in its header and the same voxels.

    Raises:
      IntegrityError: with the system's reason, if the file cannot be read.
    """
    try:
        header = nifti.read_header(path)
        labels = nifti.read_labels(path, ignore_place=True).array
    except IntegrityError as error:
        if error.rule == rules.MISSING.id:
            raise
        return False
    return bytes(header["descrip"]).rstrip(b"\0") == description(labels).encode()


def require_replaceable(mask: str | os.PathLike, extras: Iterable[str | os.PathLike]) -> None:
    """Checks the places of a scan's outputs before they are written.

    Args:
      mask: where the mask will be written.
      extras: the files that will be written after it.
    Raises:
      ValueError: naming a file that is there and was not written by a prediction, or cannot be
          read. The further outputs have no mark of their own: they are taken for a prediction's if
          the mask is.
    """
    if os.path.lexists(mask):
        if not is_own(mask):
            raise ValueError(
                f"{mask}: is not a mask that a prediction wrote, or was changed since, and would "
                f"be replaced; {_REMEDY}"
            )
        return
    for path in extras:
        if os.path.lexists(path) and not os.path.isdir(path):  # a folder cannot be replaced
            raise ValueError(
                f"{path}: is there without a mask of the same scan and would be replaced; {_REMEDY}"
            )
