"""Layout `dicom`: one folder or zip of a DICOM series per case, and NIfTI labels of its name."""

from __future__ import annotations

import pathlib
import unicodedata

from preprocessing import dicom_archive, names
from preprocessing.case_list import Case
from preprocessing.layouts import Layout
from preprocessing.layouts.paired_by_name import paired_by_name


def find(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    """Pairs each folder or zip in `images` with the NIfTI file of its name in `labels`.

    The series of a case may lie anywhere below its folder. A link whose target does not exist is
    also a case: it is refused when it is read, rather than silently left out.

    Returns, raises: as `paired_by_name`.
    """
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; correct the path")
    inside = [path for path in sorted(images.iterdir()) if not path.name.startswith(".")]
    folders = {
        unicodedata.normalize("NFC", path.name): path
        for path in inside
        if path.is_dir() or not path.exists()
    }
    zips = names.by_stem(
        path for path in inside if dicom_archive.is_archive(path) and path.exists()
    )
    twice = sorted(folders.keys() & zips.keys())
    if twice:
        raise ValueError(
            f"files have the same name: {folders[twice[0]]} and {zips[twice[0]]}; "
            "rename or remove one of each"
        )
    return paired_by_name({**folders, **zips}, labels, images, "folder of a DICOM series")


LAYOUT = Layout(find)
