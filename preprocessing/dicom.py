"""Reads a CT series in DICOM files as one volume.

Slices are sorted by their position along their normal, never by file name or instance number, and
each is rescaled with its own slope and intercept. A series that is not one upright stack of evenly
spaced slices is refused.

`dicom_folder` finds the files of a series, `dicom_header` reads their attributes, `dicom_slices`
describes each slice, `dicom_acquisitions` separates several passes in one series, `dicom_stack`
checks that the slices form a stack, and `dicom_pixels` reads the pixels.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from preprocessing import (
    dicom_acquisitions,
    dicom_archive,
    dicom_folder,
    dicom_header,
    dicom_pixels,
    dicom_slices,
    dicom_stack,
    rules,
)
from preprocessing.dicom_folder import files_in
from preprocessing.dicom_slices import Slice
from preprocessing.rules import IntegrityError, broken
from preprocessing.volume import Volume

__all__ = ["files_in", "is_series", "read_series", "require_reader", "slice_files"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def require_reader() -> None:
    """Raises ValueError, with the remedy, if pydicom is not installed."""
    if dicom_header.pydicom is None:
        raise ValueError(
            "DICOM series need pydicom and its decoders, which are not installed: "
            "pip install -e '.[dicom]'"
        )


def is_series(path: str | os.PathLike) -> bool:
    """Returns whether a path is read as DICOM.

    True for a folder, a zip, and a file with a DICOM suffix or the beginning of a DICOM file.
    """
    path = pathlib.Path(path)
    if (
        path.is_dir()
        or dicom_archive.is_archive(path)
        or path.suffix.lower() in dicom_folder.SUFFIXES
    ):
        return True
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        return dicom_header.is_dicom(dicom_header.start_of(path))
    except OSError:
        return False


def read_series(path: str | os.PathLike, series: str | None = None) -> Volume:
    """Reads a CT series.

    Args:
      path: a folder that holds the series directly or in subfolders, a zip of such a folder, or one
        multi-frame file. Localizers, screenshots, other modalities and files that are not DICOM are
        left out.
      series: SeriesInstanceUID or SeriesNumber, if there are several series. Append # and the
        number of the acquisition if the series holds several ("1.2.840...#2", "#2"); "#all" reads
        them as one.
    Returns:
      HU [x, y, z]: x along a row, y along a column, z along the normal. int16 if every value is a
      whole number that fits, otherwise float32. Fortran-ordered. Padding becomes air. `warnings`
      lists what is unusual about the series.
    Raises:
      IntegrityError: for the first broken rule of groups D and F. It names the folder, or the file
          and the attribute.
      ValueError: if pydicom is not installed.
    """
    with _opened(path, series) as (slices, warnings):
        first, last = slices[0], slices[-1]
        steps = (np.array(last.position) - first.position) / (len(slices) - 1)
        # Normalised, because some scanners print direction cosines with so few digits that their
        # length would make a voxel measurably larger.
        row, column = (
            direction / np.linalg.norm(direction)
            for direction in np.reshape(first.directions, (2, 3))
        )
        affine = np.eye(4)
        affine[:3, :3] = _LPS_TO_RAS @ np.stack(
            [row * first.spacing[1], column * first.spacing[0], steps], axis=1
        )
        affine[:3, 3] = _LPS_TO_RAS @ first.position
        hu, padding_warnings = dicom_pixels.read_hu(slices)
        return Volume(hu, affine, warnings=(*warnings, *padding_warnings))


@contextlib.contextmanager
def slice_files(path: str | os.PathLike, series: str | None = None) -> Iterator[list[pathlib.Path]]:
    """Yields the file of each slice, in the order of z of `read_series`.

    A multi-frame file is listed once per frame. Files of a zip exist until the end of the block.
    Args, raises: as `read_series`.
    """
    with _opened(path, series) as (slices, _):
        yield [one.file for one in slices]


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike, wanted: str | None
) -> Iterator[tuple[list[Slice], list[IntegrityError]]]:
    """Yields the sorted slices of the chosen series, and warnings."""
    require_reader()
    path = pathlib.Path(path)
    with contextlib.ExitStack() as stack:
        folder = path
        if dicom_archive.is_archive(path):
            folder = stack.enter_context(dicom_archive.unpacked(path))
        files: list[pathlib.Path] = []
        missing: list[pathlib.Path] = []
        if folder.is_dir():
            files, missing = dicom_folder.listing(folder)
        elif folder.is_file():
            files = [folder]
        elif folder.is_symlink():
            missing = [folder]
        else:
            raise broken(rules.MISSING, path, "no such folder")
        name, _, acquisition = (wanted or "").partition("#")
        series = dicom_folder.choose(path, files, missing, name or None)
        slices = [one for header in series.slices for one in dicom_slices.slices_of(header)]
        dicom_stack.require_alike(slices)
        dicom_stack.require_whole_concatenations(series.slices, path)
        dicom_stack.require_no_slice_left_out(series, slices[0])
        slices = dicom_acquisitions.choose(path, series.uid, slices, acquisition or None)
        yield dicom_stack.sorted_stack(slices, path), dicom_stack.gap_warnings(slices, path)
