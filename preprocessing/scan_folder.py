"""Finds the scans in a folder that may also hold other files."""

from __future__ import annotations

import os
import pathlib

from preprocessing import dicom, dicom_folder, names


def scans_in(
    path: pathlib.Path, *, leave_out: str | os.PathLike | None = None
) -> list[pathlib.Path]:
    """Returns the scans that a path refers to.

    A folder of scans refers to the NIfTI files, zips and folders in it; other files in it (text,
    Thumbs.db) are left out, and a link whose target does not exist counts as a scan. Any other path
    refers to a single scan: a file, or a folder with DICOM files, which is a series.

    Args:
      leave_out: a folder of masks that an earlier run may have put there.
    Raises:
      ValueError: if a folder holds NIfTI files and loose DICOM files, which would be left out.
    """
    if not path.is_dir():
        return [path]
    masks = None if leave_out is None else os.path.realpath(leave_out)
    inside = sorted(
        entry
        for entry in path.iterdir()
        if not entry.name.startswith(".") and os.path.realpath(entry) != masks
    )
    scans = [
        entry
        for entry in inside
        if entry.is_dir() or names.is_nifti(entry) or entry.suffix.lower() == ".zip"
    ]
    others = [entry for entry in inside if entry not in set(scans)]
    if any(names.is_nifti(entry) for entry in scans):
        loose = [entry.name for entry in others if entry.is_file() and dicom.is_series(entry)]
        if loose:
            raise ValueError(
                f"{path}: holds NIfTI scans and, beside them, {len(loose)} DICOM files, "
                f"e.g. {loose[0]}; put these into a folder of their own"
            )
    elif any(dicom_folder.may_be_slice(entry) for entry in others if entry.is_file()):
        return [path]
    if not scans:
        return [path]
    lost = [entry for entry in others if not entry.exists()]
    named_as_scan = (entry for entry in lost if not entry.suffix or entry.suffix[1:].isdigit())
    return sorted([*scans, *named_as_scan])
