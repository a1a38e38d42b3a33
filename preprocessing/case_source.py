"""The interfaces of a prepared case and of a store of such cases, for code that reads them.

`case_store.CaseStore` holds a site's cases on disk. Other stores pool the cases of several sites or
keep them in memory; training, scoring and reports accept any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from preprocessing.patches import PatchSource
from preprocessing.volume import Grid


class PreparedCase(PatchSource, Protocol):
    """One prepared case. Its image and label are on the training grid.

    Attributes:
      number: running number in the cohort, from 1; the only name of a case that leaves the site.
      native: the scan's own grid.
      target_mm: spacing of the training grid.
    """

    @property
    def number(self) -> int: ...

    @property
    def native(self) -> Grid: ...

    @property
    def target_mm(self) -> tuple[float, float, float]: ...

    def native_label(self) -> np.ndarray:
        """Returns the label on the scan's own grid, uint8, in the scan's own axis order."""
        ...


class CaseSource(Protocol):
    """A store of prepared cases.

    Attributes:
      site: name of the site.
      declared: the site's declaration about each class of its labels, see `declared_labels`; None
          without a declaration.
    """

    @property
    def site(self) -> str: ...

    @property
    def declared(self) -> Mapping[str, str] | None: ...

    def case_ids(self, split: str | None = None) -> tuple[str, ...]:
        """Returns the cases of a split, or all cases, in the order of their numbers."""
        ...

    def open(self, case_id: str) -> PreparedCase:
        """Returns a case. Raises ValueError if it is not in this store."""
        ...


def required_ids(source: CaseSource, split: str) -> tuple[str, ...]:
    """Returns the cases of a split, at least one.

    Raises:
      ValueError: if the split is empty.
    """
    found = source.case_ids(split)
    if not found:
        raise ValueError(
            f"site {source.site} has no {split} case; prepare its cases with a split that has "
            "some, e.g. --split=12,4,4"
        )
    return found
