"""Folders as they come: which of their files are the cases of a site."""

from __future__ import annotations

import os
import pathlib
import unicodedata

from preprocessing import dicom, dicom_folder, names
from preprocessing.manifest import Case

_CHANNEL = "_0000"  # nnU-Net's name of the first channel


def scans_in(
    path: pathlib.Path, *, leave_out: str | os.PathLike | None = None
) -> list[pathlib.Path]:
    """Returns the scans that a path stands for: those in a folder of scans; for anything else, as a
    file or a DICOM series, the path itself.

    A folder of scans holds NIfTI files, zips and folders. Files of other kinds in it (text,
    Thumbs.db) are left out; a link whose target is not there counts as the scan that it should be.
    A folder with DICOM files is a series.

    Args:
      leave_out: a folder of masks that an earlier run may have put there.
    Raises:
      ValueError: if a folder holds NIfTI files and, loose beside them, DICOM files, of which no
          scan would be made.
    """
    if not path.is_dir():
        return [path]
    masks = None if leave_out is None else os.path.realpath(leave_out)
    inside = sorted(
        entry
        for entry in path.iterdir()
        if not entry.name.startswith(".") and os.path.realpath(entry) != masks
    )
    scans = [entry for entry in inside if entry.is_dir() or names.is_nifti(entry) or _is_zip(entry)]
    others = [entry for entry in inside if entry not in set(scans)]
    lost = [entry for entry in others if not entry.exists()]
    if any(names.is_nifti(entry) for entry in scans):
        loose = [entry.name for entry in others if entry.is_file() and dicom.is_series(entry)]
        if loose:
            raise ValueError(
                f"{path}: holds NIfTI scans and loose among them {len(loose)} DICOM files, e.g. {loose[0]}; put these into a folder of their own"
            )
    elif any(dicom_folder.may_be_slice(entry) for entry in others if entry.is_file()):
        return [path]
    return (
        sorted(
            [*scans, *(entry for entry in lost if not entry.suffix or entry.suffix[1:].isdigit())]
        )
        if scans
        else [path]
    )


def nifti_pairs(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    """Pairs NIfTI files of two folders by name; nnU-Net's `_0000` behind an image's name is
    ignored.

    Names may hold blanks, umlauts in either form of Unicode, and suffixes in capitals; see
    `names.case_ids` for the cases' ids.

    Returns:
      The cases, sorted by name; and the names of labels that have no image. An image without label
      is a case without label.
    Raises:
      ValueError: if there is no image, or two files of one folder have one name.
    """
    return _paired(
        names.by_stem(names.nifti_files(images), without=_CHANNEL), labels, images, "*.nii.gz"
    )


def dicom_folders(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    """Pairs each folder in `images` (one case, its series somewhere below), or zip of one, with the
    NIfTI file of its name in `labels`.

    A link whose target is not there is a case too: it is refused when it is read, and not
    forgotten.

    Returns, raises: as `nifti_pairs`.
    """
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; correct the path")
    inside = [path for path in sorted(images.iterdir()) if not path.name.startswith(".")]
    found = {
        unicodedata.normalize("NFC", path.name): path
        for path in inside
        if path.is_dir() or not path.exists()
    }
    zips = names.by_stem(
        path for path in inside if _is_zip(path) and path.exists() and not path.is_dir()
    )
    twice = sorted(found.keys() & zips.keys())
    if twice:
        raise ValueError(
            f"files have one name: {found[twice[0]]} and {zips[twice[0]]}; rename or remove one of each"
        )
    return _paired({**found, **zips}, labels, images, "folder of a DICOM series")


def _paired(
    images: dict[str, pathlib.Path], labels: pathlib.Path, folder: pathlib.Path, kind: str
) -> tuple[list[Case], list[str]]:
    if not images:
        raise ValueError(
            f"{folder}: holds no {kind}; give the folder that holds the scans themselves"
        )
    drawn = names.by_stem(names.nifti_files(labels))
    ids = names.case_ids(images)
    return [Case(ids[name], images[name], drawn.get(name)) for name in sorted(images)], sorted(
        set(drawn) - set(images)
    )


def _is_zip(path: pathlib.Path) -> bool:
    return path.suffix.lower() == ".zip"
