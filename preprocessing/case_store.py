"""Prepared cases on disk: memory-mapped, one folder a case, nothing pickled, no path and no patient's name inside."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from preprocessing.volume import Grid
from runkit import atomic

INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class StoredCase:
    """One prepared case.

    Attributes:
      case_id: the site's own name of it.
      number: 1-based running number in the cohort; the only name of the case that leaves the site.
      image: float16 [x, y, z] on the training grid, RAS+, in [-1, 1]; a memory map.
      label: uint8 [x, y, z], 0 background, 1 pancreas, 2 tumour; a memory map.
      foreground: int32 [n], flat C-order indices of label > 0.
      native: grid of the scan's own file.
      target_mm: spacing of the training grid.
    """

    case_id: str
    number: int
    image: np.ndarray
    label: np.ndarray
    foreground: np.ndarray
    native: Grid
    target_mm: tuple[float, float, float]
    folder: pathlib.Path

    def native_label(self) -> np.ndarray:
        """Returns the label uint8 on the scan's own grid and in its axis order."""
        with np.load(self.folder / "native_label.npz", allow_pickle=False) as file:
            return file["label"]


class CaseStore:
    """The prepared cases of a site.

    Raises:
      ValueError: naming the folder, if no preparation was finished there.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(root)
        if not (self.root / INDEX).is_file():
            raise ValueError(f"{self.root}: no prepared cases there; run experiments.prepare first")
        index = atomic.read_json(self.root / INDEX)
        self.site: str = index["site"]
        self.settings: dict[str, Any] = index["settings"]
        self._numbers: dict[str, int] = index["numbers"]
        self._splits: dict[str, list[str]] = index["splits"]

    def case_ids(self, split: str | None = None) -> tuple[str, ...]:
        """Returns the ids of one split ("training", "validation", "test"), or of all cases."""
        if split is None:
            return tuple(self._numbers)
        if split not in self._splits:
            raise ValueError(f"split is {split!r}; expected one of {sorted(self._splits)}")
        return tuple(self._splits[split])

    def open(self, case_id: str) -> StoredCase:
        if case_id not in self._numbers:
            raise ValueError(f"{self.root}: no case {case_id!r} among its {len(self._numbers)}")
        folder = case_folder(self.root, case_id)
        try:
            facts = atomic.read_json(folder / "case.json")
            return StoredCase(
                case_id=case_id,
                number=self._numbers[case_id],
                image=np.load(folder / "image.npy", mmap_mode="r", allow_pickle=False),
                label=np.load(folder / "label.npy", mmap_mode="r", allow_pickle=False),
                foreground=np.load(folder / "foreground.npy", allow_pickle=False),
                native=Grid(tuple(facts["native_shape"]), np.array(facts["native_affine"])),
                target_mm=tuple(facts["target_mm"]),
                folder=folder,
            )
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{folder}: the prepared case is incomplete ({error}); delete it and run experiments.prepare again") from error


def case_folder(root: pathlib.Path, case_id: str) -> pathlib.Path:
    return root / "case" / case_id


def write_case(
    root: pathlib.Path, case_id: str, image: np.ndarray, label: np.ndarray, native_label: np.ndarray, facts: dict[str, Any]
) -> None:
    """Writes one prepared case as a whole: a reader, or a run after a kill, finds all of it or nothing.

    Args:
      image: float [x, y, z] in [-1, 1]; kept as float16, whose steps there are at most 0.11 HU.
      label: uint8 [x, y, z].
      native_label: uint8 on the scan's own grid.
      facts: JSON-able; native_shape, native_affine, target_mm and what identifies source and settings.
    """
    with atomic.replacing_folder(case_folder(root, case_id)) as folder:
        np.save(folder / "image.npy", np.ascontiguousarray(image, dtype=np.float16), allow_pickle=False)
        label = np.ascontiguousarray(label, dtype=np.uint8)
        np.save(folder / "label.npy", label, allow_pickle=False)
        np.save(folder / "foreground.npy", np.flatnonzero(label).astype(np.int32), allow_pickle=False)
        np.savez_compressed(folder / "native_label.npz", label=native_label)
        atomic.write_json(folder / "case.json", facts)


def stored_facts(root: pathlib.Path, case_id: str) -> dict[str, Any] | None:
    """Returns the facts of a case that was written before, or None."""
    path = case_folder(root, case_id) / "case.json"
    return atomic.read_json(path) if path.is_file() else None


def write_index(root: pathlib.Path, *, site: str, settings: dict[str, Any], numbers: dict[str, int], splits: dict[str, Any]) -> None:
    atomic.write_json(root / INDEX, {"site": site, "settings": settings, "numbers": numbers, "splits": splits})
