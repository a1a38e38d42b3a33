"""Layouts of datasets: how two folders of files become the cases of a site.

A layout is a module with a `LAYOUT` and an entry in `MODULES`. CONTRIBUTING.md shows an example.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # flags list the layouts, so this module must not import anything heavy
    from preprocessing.case_list import Case
    from preprocessing.rules import IntegrityError

# Name of a layout, as in `--layout=nifti` -> its module.
MODULES = {
    "nifti": "preprocessing.layouts.nifti_pairs",
    "dicom": "preprocessing.layouts.dicom_folders",
    "pancreas_ct": "preprocessing.layouts.pancreas_ct",
}


class Examined(Protocol):
    """A case after a closer look at its files.

    Attributes:
      case: the case, including what was found out, e.g. how its label is turned.
      remark: a remark for the user.
      error: why the case must be excluded; None if it can be used.
    """

    @property
    def case(self) -> Case: ...

    @property
    def remark(self) -> str: ...

    @property
    def error(self) -> IntegrityError | None: ...


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which a dataset is laid out.

    Attributes:
      find: takes the folders of the scans and of the labels. Returns the cases, sorted by name, and
          the names of labels without a scan. Raises ValueError, naming the folder and the remedy,
          if it finds no case or cannot tell two apart.
      examine: reads the files of the labelled cases, if names and folders are not enough. Takes the
          cases and the number of worker processes.
      declared: what the labels show of each class, see `declared_labels`; None if the layout does
          not determine it.
    """

    find: Callable[[pathlib.Path, pathlib.Path], tuple[list[Case], list[str]]]
    examine: Callable[[Sequence[Case], int], Sequence[Examined]] | None = None
    declared: Mapping[str, str] | None = None


def load(name: str) -> Layout:
    """Returns a layout by its name in `MODULES`."""
    return importlib.import_module(MODULES[name]).LAYOUT
