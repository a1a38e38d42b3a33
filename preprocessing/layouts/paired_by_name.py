"""Pairs scans and labels by name, for layouts in which both have the same names."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from preprocessing import names
from preprocessing.case_list import Case


def paired_by_name(
    scans: Mapping[str, pathlib.Path], labels: pathlib.Path, folder: pathlib.Path, kind: str
) -> tuple[list[Case], list[str]]:
    """Pairs scans with the NIfTI files of their names.

    Args:
      scans: name -> file or folder.
      labels: folder of the labels.
      folder: folder of the scans, for the error message.
      kind: kind of the scans, for the error message, e.g. "*.nii.gz".
    Returns:
      The cases, sorted by name, and the names of labels that have no scan. A scan that has no label
      is a case without a label.
    Raises:
      ValueError: if there is no scan, or two labels have the same name.
    """
    if not scans:
        raise ValueError(
            f"{folder}: holds no {kind}; give the folder that holds the scans themselves"
        )
    drawn = names.by_stem(names.nifti_files(labels))
    ids = names.case_ids(scans)
    cases = [Case(ids[name], scans[name], drawn.get(name)) for name in sorted(scans)]
    return cases, sorted(set(drawn) - set(scans))
