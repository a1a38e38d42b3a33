"""Layout `nifti`: two folders with NIfTI files of the same names."""

from __future__ import annotations

import pathlib

from preprocessing import names
from preprocessing.case_list import Case
from preprocessing.layouts import Layout
from preprocessing.layouts.paired_by_name import paired_by_name

_CHANNEL = "_0000"  # suffix of the first channel in nnU-Net


def find(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    """Pairs the NIfTI files of two folders by name; nnU-Net's `_0000` after a name is ignored.

    Names may contain spaces, umlauts in either form of Unicode, and suffixes in capitals; see
    `names.case_ids` for the ids of the cases.

    Returns, raises: as `paired_by_name`.
    """
    scans = names.by_stem(names.nifti_files(images), without=_CHANNEL)
    return paired_by_name(scans, labels, images, "*.nii.gz")


LAYOUT = Layout(find)
