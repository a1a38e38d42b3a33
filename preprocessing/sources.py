"""A case's files as volumes, whatever they are: NIfTI files, DICOM series, the layout of NIH
Pancreas-CT.

The pipeline, the check and the reports open a case here and nowhere else.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from preprocessing import dicom, geometry, nifti, regular_files
from preprocessing.checks import rules
from preprocessing.checks.rules import IntegrityError, broken
from preprocessing.manifest import Case, CaseManifest
from preprocessing.volume import Volume

_AXES = "xyz"
Found = TypeVar("Found")


def read_case(case: Case, label_values: Mapping[int, int] | None = None) -> tuple[Volume, Volume]:
    """Returns CT and label of a case, each in its own axis order.

    Args:
      case: with a label.
      label_values: file value -> class, see `nifti.read_labels`.
    Raises:
      IntegrityError: with rule and file, whatever is wrong with one of them.
    """
    image, label, _ = read_case_and(case, label_values, lambda label: None)
    return image, label


def read_case_and(
    case: Case, label_values: Mapping[int, int] | None, meanwhile: Callable[[np.ndarray], Found]
) -> tuple[Volume, Volume, Found]:
    """Returns CT and label as `read_case`, and what `meanwhile` makes of the label's voxels while
    the CT is still being read.
    """
    with concurrent.futures.ThreadPoolExecutor(
        1
    ) as beside:  # decompressing lets go of the interpreter
        reading = beside.submit(read_image, case)
        try:
            label = nifti.read_labels(
                case.label,
                label_values,
                ignore_place=case.label_turn is not None,
                orientation=case.orientation,
            )
        except IntegrityError:
            reading.result()  # what is wrong with the scan comes first
            raise
        if case.label_turn is not None:
            label = Volume(turned(label.array, case.label_turn), label.affine)
        found = meanwhile(label.array)
        image = reading.result()
    if case.label_turn is not None:
        return image, Volume(label.array, image.affine, image.placed), found
    return image, geometry.at_place_of(label, image), found


def read_image(case: Case) -> Volume:
    """Returns the CT of a case: a DICOM series (a folder, a zip of one, a multi-frame file), or a
    NIfTI file. Raises as `read_case`.
    """
    if dicom.is_series(case.image):
        return dicom.read_series(case.image, case.series)
    return nifti.read_ct(case.image, case.orientation)


def require_headers(case: Case) -> None:
    """Raises IntegrityError where a header of a case says that it must not be used, without reading
    its voxels.
    """
    if not dicom.is_series(case.image):
        nifti.stored_form(case.image, orientation=case.orientation)
    if case.label is not None:
        nifti.stored_form(
            case.label, ignore_place=case.label_turn is not None, orientation=case.orientation
        )


def digests(case: Case) -> dict[str, str]:
    """Returns what a case is made of: "image", "label" and how they are combined -> sha256 in hex,
    or the setting itself.

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
    """Raises ValueError, with the remedy, if a case needs a reader that is not installed: before
    the work, not for each case.
    """
    if any(dicom.is_series(case.image) for case in manifest.included):
        dicom.require_reader()


def turned(array: np.ndarray, turn: str) -> np.ndarray:
    """Returns a view of `array` with its axes exchanged and reversed: "+y-x+z" has y as its first
    axis and x, backwards, as its second.

    Raises:
      ValueError: for a turn that is not each of x, y and z once, with its sign.
    """
    signs, names = turn[0::2], turn[1::2]
    if len(turn) != 6 or sorted(names) != list(_AXES) or set(signs) - {"+", "-"}:
        raise ValueError(f'turn is {turn!r}; expected each axis once with its sign, e.g. "+x-y+z"')
    view = array.transpose([_AXES.index(name) for name in names])
    return view[tuple(slice(None, None, -1) if sign == "-" else slice(None) for sign in signs)]


def file_sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    try:
        regular_files.require(path)
        with open(path, "rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except OSError as error:
        raise broken(rules.MISSING, path, f"cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _folder_sha256(folder: pathlib.Path) -> str:
    # of the files' content only: another copy of a series may have other names
    return hashlib.sha256(
        "".join(sorted(file_sha256(path) for path in dicom.files_in(folder))).encode()
    ).hexdigest()
