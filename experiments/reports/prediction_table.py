"""The table of a prediction: one row per scan, with mask, volumes, connected parts and notes."""

from __future__ import annotations

import csv
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.models.scan_prediction import Prediction
from runkit import atomic, text_files

# New columns go last, because some readers identify columns by position.
COLUMNS = (
    *("scan", "mask", "pancreas_ml", "tumour_ml", "pancreas_components", "tumour_components"),
    *("seconds", "note", "tumour_score", "gate"),
)


def row(
    scan: pathlib.Path, mask: pathlib.Path, found: Prediction, seconds: float | None = None
) -> dict[str, Any]:
    """Returns the row of a scan with a mask. Its note names other outputs that failed."""
    return {
        "scan": str(scan),
        "mask": str(mask),
        **{f"{name}_ml": round(volume, 3) for name, volume in found.volumes_ml.items()},
        **{f"{name}_components": count for name, count in found.components.items()},
        "seconds": "" if seconds is None else round(seconds, 1),
        "note": "; ".join([*found.notes, *(f"failed: {problem}" for problem in found.failed)]),
        "tumour_score": "" if found.score is None else round(found.score, 3),
        "gate": found.gate,
    }


def failed_row(scan: pathlib.Path, problem: str) -> dict[str, Any]:
    """Returns the row of a scan without a mask."""
    return {"scan": str(scan), "mask": "", "note": f"failed: {problem}"}


class Table:
    """A CSV file that is written after each scan, so that no finished row is ever lost.

    It keeps the rows and columns of an existing file: only the row of the same scan or mask is
    replaced.

    Args:
      path: the file; None keeps the rows in memory only.
    Raises:
      ValueError: naming the file, if it exists and is not a table of predictions.
    """

    def __init__(self, path: str | os.PathLike | None):
        self.path = None if path is None else pathlib.Path(path)
        self._rows: list[Mapping[str, Any]] = []
        self._columns = list(COLUMNS)
        if self.path is not None and self.path.exists():
            reader = csv.DictReader(
                io.StringIO(text_files.read(self.path, errors="surrogateescape"), newline="")
            )
            columns = list(reader.fieldnames or ())
            if not {"scan", "mask"} <= set(columns):
                raise ValueError(
                    f"{self.path}: is not a table of predictions and would be replaced; use "
                    "another file for --volumes"
                )
            self._columns += [column for column in columns if column not in self._columns]
            self._rows = [
                {name: value for name, value in one.items() if name is not None} for one in reader
            ]

    def has_mask(self, mask: pathlib.Path) -> bool:
        """Returns whether there is a row for this mask."""
        return any(_same(one["mask"], mask) for one in self._rows)

    def add(self, new: Mapping[str, Any]) -> None:
        """Adds a row, or replaces that of the same scan or mask, and writes the file.

        Raises:
          ValueError: naming the file, if it cannot be written; the next call tries again.
        """
        places = [
            i
            for i, old in enumerate(self._rows)
            if _same(old["scan"], new["scan"]) or _same(old["mask"], new["mask"])
        ]
        place = places[0] if places else len(self._rows)
        self._rows = [old for i, old in enumerate(self._rows) if i not in places]
        self._rows.insert(place, new)
        self.write()

    def write(self) -> None:
        """Writes all rows; raises ValueError like `add`."""
        if self.path is None or not self._rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        try:
            atomic.write_text(self.path, text.getvalue())
        except OSError as error:
            raise ValueError(
                f"{self.path}: cannot be written ({error.strerror or error}); free space or use "
                "another place"
            ) from error


def _same(one: str | os.PathLike | None, other: str | os.PathLike | None) -> bool:
    if not one or not other:
        return False
    return os.path.abspath(one) == os.path.abspath(other)
