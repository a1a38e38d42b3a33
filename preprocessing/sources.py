"""Reads the files of a case as volumes, whether they are NIfTI files or DICOM series.

The pipeline, the checks and the reports open cases only through this module.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from preprocessing import axes, dicom, geometry, nifti, regular_files, rules
from preprocessing.case_list import Case, CaseManifest
from preprocessing.rules import IntegrityError, broken
from preprocessing.volume import Volume

_AXES = "xyz"
Found = TypeVar("Found")


def read_case(case: Case, label_values: Mapping[int, int] | None = None) -> tuple[Volume, Volume]:
    """Returns the CT and the label of a case, each in its own axis order.

    Args:
      case: a case with a label.
      label_values: file value -> class, see `nifti.read_labels`.
    Raises:
      IntegrityError: naming the rule and the file, if one of them cannot be used.
    """
    image, label, _ = read_case_and(case, label_values, lambda label: None)
    return image, label


def read_case_and(
    case: Case, label_values: Mapping[int, int] | None, meanwhile: Callable[[np.ndarray], Found]
) -> tuple[Volume, Volume, Found]:
    """Returns the result of `read_case`, and that of `meanwhile` called with the label's voxels.

    `meanwhile` runs while the CT is still being read.
    """
    # in another thread, because decompression releases the interpreter lock
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        reading = executor.submit(read_image, case)
        try:
            label = nifti.read_labels(
                case.required_label,
                label_values,
                ignore_place=case.label_turn is not None,
                orientation=case.orientation,
            )
        except IntegrityError:
            reading.result()  # report an error of the scan first
            raise
        if case.label_turn is not None:
            label = Volume(turned(label.array, case.label_turn), label.affine)
        found = meanwhile(label.array)
        image = reading.result()
    if case.label_turn is not None:
        return image, Volume(label.array, image.affine, image.placed), found
    return image, geometry.at_place_of(label, image), found


def read_image(case: Case) -> Volume:
    """Returns the CT of a case. Raises as `read_case`.

    The CT is a DICOM series (a folder, a zip of one, a multi-frame file) or a NIfTI file.
    """
    if dicom.is_series(case.image):
        return dicom.read_series(case.image, case.series)
    return nifti.read_ct(case.image, case.orientation)


def require_headers(case: Case) -> None:
    """Raises IntegrityError if a NIfTI header of a case cannot be used. Reads no voxels."""
    if not dicom.is_series(case.image):
        nifti.stored_form(case.image, orientation=case.orientation)
    if case.label is not None:
        nifti.stored_form(
            case.label, ignore_place=case.label_turn is not None, orientation=case.orientation
        )


def digests(case: Case) -> dict[str, str]:
    """Returns everything that a prepared case depends on.

    Returns:
      "image" and "label" -> SHA-256 in hex; and the non-empty settings of the case.
    Raises:
      IntegrityError: naming a file that cannot be read.
    """
    found = {
        "image": _folder_sha256(case.image) if case.image.is_dir() else file_sha256(case.image)
    }
    if case.label is not None:
        found["label"] = file_sha256(case.label)
    settings = {
        "series": case.series,
        "label_turn": case.label_turn,
        "accept": ",".join(case.accept),
        "orientation": case.orientation,
    }
    for name, value in settings.items():
        if value:
            found[name] = value
    return found


def require_readers(manifest: CaseManifest) -> None:
    """Raises ValueError, with the remedy, if a case needs a reader that is not installed."""
    if any(dicom.is_series(case.image) for case in manifest.included):
        dicom.require_reader()


def turned(array: np.ndarray, turn: str) -> np.ndarray:
    """Returns a view of `array` with its axes exchanged and reversed.

    Args:
      turn: e.g. "+y-x+z", which makes y the first axis and x, reversed, the second.
    Raises:
      ValueError: unless the turn names each of x, y and z once, with its sign.
    """
    signs, names = turn[0::2], turn[1::2]
    if len(turn) != 6 or sorted(names) != list(_AXES) or set(signs) - {"+", "-"}:
        raise ValueError(f'turn is {turn!r}; expected each axis once with its sign, e.g. "+x-y+z"')
    view = array.transpose([_AXES.index(name) for name in names])
    return axes.mirrored(view, (sign == "-" for sign in signs))


def file_sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file in hex. Raises IntegrityError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        regular_files.require_readable(path)
        with open(path, "rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except OSError as error:
        raise broken(rules.MISSING, path, f"cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _folder_sha256(folder: pathlib.Path) -> str:
    # digest of the content only, because another copy of a series may have other file names
    hashes = sorted(file_sha256(path) for path in dicom.files_in(folder))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
