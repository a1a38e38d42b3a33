"""The best global models as separate files, and the record of how they were selected."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from federated.tensors.tensor_files import TensorFile
from runkit import atomic


class BestModels:
    """A store's `best.safetensors`, `best_worst_site.safetensors` and `selection.json`."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._record = folder, folder / "selection.json"
        self._read: dict[str, Any] | None = None  # the record on disk, once it has been read

    def keep(
        self,
        best: int,
        worst_site: int,
        table: Mapping[str, Any],
        *,
        path_of: Callable[[int], pathlib.Path],
    ) -> None:
        """Writes the best global model, the one with the best worst site, and `selection.json`.

        Each file is replaced as a whole, the models first; the metadata of a model states its
        round. Repeating the call completes what a kill interrupted.

        Args:
          best, worst_site: numbers of the two global models.
          table: further content of `selection.json`.
          path_of: returns the file of a global model.
        """
        before = self._content()
        for name, key, number in (
            ("best", "best_round", best),
            ("best_worst_site", "best_worst_site_round", worst_site),
        ):
            # A kill between the two may have left a model that the record does not name.
            path = self._folder / f"{name}.safetensors"
            if before.get(key) != number or not _is_of_round(path, number):
                _link(path_of(number), path)
        content = {"best_round": best, "best_worst_site_round": worst_site, **table}
        if content != before:
            self._read = None  # if writing fails, the record is whatever the file contains
            atomic.write_text(self._record, _one_line_each(content))
            self._read = content

    def best_round(self) -> int | None:
        """Returns the number of the best global model; None before the first selection."""
        return self._content().get("best_round")

    def rounds(self) -> set[int]:
        """Returns the numbers of the selected models; 0 stands for none."""
        content = self._content()
        return {content.get("best_round", 0), content.get("best_worst_site_round", 0)}

    def forget(self, first: int) -> None:
        """Removes the record if it names a model of round `first` or later.

        Otherwise a round that is trained again would be mistaken for the selected one.
        """
        if max(self.rounds()) >= first:
            self._record.unlink()
            self._read = None

    def _content(self) -> dict[str, Any]:
        # Every round needs it several times, and a record of thousands of rounds is slow to parse.
        if self._read is None and self._record.exists():
            self._read = atomic.read_object(self._record)
        return self._read or {}


def _one_line_each(content: Mapping[str, Any]) -> str:
    """Returns JSON with one line per entry and per scored model.

    With an indent for all of it, Python's encoder would write it instead of the one in C.
    """
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            rows = ",\n".join(f"    {json.dumps(row, allow_nan=False)}" for row in value)
            lines.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _is_of_round(path: pathlib.Path, number: int) -> bool:
    try:
        with TensorFile(path) as file:
            return file.metadata.get("round", "0") == str(number)
    except (FileNotFoundError, ValueError):
        return False


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes `target` a second name of a file that never changes again, or a copy of it."""
    temporary = target.with_name(f"{atomic.PARTIAL}{target.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        with atomic.replacing(target) as copy:
            shutil.copyfile(source, copy)
        return
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # a rename onto the same file does nothing
    # Synced now, so that a record that names this model cannot survive a power cut without it.
    atomic.sync_directory(target.parent)
