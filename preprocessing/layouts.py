"""Folders as they come: which of their files are the cases of a site."""

from __future__ import annotations

import pathlib
import unicodedata

from preprocessing import names
from preprocessing.manifest import Case

_CHANNEL = "_0000"  # nnU-Net's name of the first channel


def nifti_pairs(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    """Pairs NIfTI files of two folders by name; nnU-Net's `_0000` behind an image's name is ignored.

    Names may hold blanks, umlauts in either form of Unicode, and suffixes in capitals; see `names.case_ids` for the cases' ids.

    Returns:
      The cases, sorted by name; and the names of labels that have no image. An image without label is a case without label.
    Raises:
      ValueError: if there is no image, or two files of one folder have one name.
    """
    return _paired(names.by_stem(names.nifti_files(images), without=_CHANNEL), labels, images, "*.nii.gz")


def dicom_folders(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    """Pairs each folder in `images` (one case, its series somewhere below) with the NIfTI file of the same name in `labels`.

    Returns, raises: as `nifti_pairs`.
    """
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; correct the path")
    folders = (path for path in sorted(images.iterdir()) if path.is_dir() and not path.name.startswith("."))
    found = {unicodedata.normalize("NFC", path.name): path for path in folders}
    return _paired(found, labels, images, "folder of a DICOM series")


def _paired(images: dict[str, pathlib.Path], labels: pathlib.Path, folder: pathlib.Path, kind: str) -> tuple[list[Case], list[str]]:
    if not images:
        raise ValueError(f"{folder}: holds no {kind}; give the folder that holds the scans themselves")
    drawn = names.by_stem(names.nifti_files(labels))
    ids = names.case_ids(images)
    return [Case(ids[name], images[name], drawn.get(name)) for name in sorted(images)], sorted(set(drawn) - set(images))
