"""Folders as they come: which of their files are the cases of a site."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

from preprocessing.manifest import Case

_SUFFIXES = (".nii.gz", ".nii")
_CHANNEL = "_0000"  # nnU-Net's name of the first channel


def nifti_pairs(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    """Pairs NIfTI files of two folders by name; nnU-Net's `_0000` behind an image's name is ignored.

    Returns:
      The cases, sorted by name; and the names of labels that have no image. An image without label is a case without label.
    Raises:
      ValueError: if there is no image.
    """
    found = {_stem(path).removesuffix(_CHANNEL): path for path in _niftis(images)}
    return _paired(found, labels, images, "*.nii.gz")


def dicom_folders(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    """Pairs each folder in `images` (one case, its series somewhere below) with the NIfTI file of the same name in `labels`.

    Returns, raises: as `nifti_pairs`.
    """
    found = {path.name: path for path in sorted(images.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    return _paired(found, labels, images, "folder of a DICOM series")


def _paired(images: dict[str, pathlib.Path], labels: pathlib.Path, folder: pathlib.Path, kind: str) -> tuple[list[Case], list[str]]:
    if not images:
        raise ValueError(f"{folder}: holds no {kind}; give the folder that holds the scans themselves")
    drawn = {_stem(path): path for path in _niftis(labels)}
    return [Case(name, images[name], drawn.get(name)) for name in sorted(images)], sorted(set(drawn) - set(images))


def _niftis(folder: pathlib.Path) -> Iterable[pathlib.Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; correct the path")
    # macOS writes a ._ file beside each file of an archive; it holds no scan
    return sorted(p for p in folder.iterdir() if p.name.endswith(_SUFFIXES) and not p.name.startswith("."))


def _stem(path: pathlib.Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
