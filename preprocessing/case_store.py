"""Prepared cases on disk: one folder per case, memory-mapped, without a path or a patient's name.

<root>/index.json         site, settings, split, running numbers, classes, declaration of the
                          labels, format and release
<root>/cases/<case_id>/
    image.npy             float16 [x, y, z] in [-1, 1], C order
    label.npy             uint8 [x, y, z]; slabs of x without foreground are holes in the file,
                          which cost neither disk nor time
    runs.npy              int32 [n, 3], the label's foreground as runs (`foreground.LabelRuns`)
    native_runs.npy       the same for the label on the scan's own grid
    case.json             sources and settings, native grid

C order suits patches: reading 96 x 96 x 96 voxels from 360 x 360 x 200 takes 96 pieces of the file
of 38 KB each, together twice the bytes of the patch. Blocks of 32 x 32 x 32 would read as much and
would have to be assembled.

Only the account that prepares the cases can read the root, whatever the umask. A folder is written
completely or not at all. It records a fingerprint of the files and settings it was made from, so
that a case made from other files or settings is never mistaken for the current one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TypedDict

import numpy as np

from preprocessing import axes, stored_records
from preprocessing.foreground import LabelBox, LabelRuns
from preprocessing.volume import Grid
from runkit import array_files, atomic, formats, private, release
from runkit.classes import CLASSES

FORMAT = 2  # increase it when the same files and settings result in a different store
UNSTATED = 2  # format of the stores and cases of release 0.1.0, which do not state it

_OPEN_MAPS = 256  # a process usually has 1024 file handles
_MAPPED = ("image.npy", "label.npy")
_PREPARE_AGAIN = (
    "the file was changed or damaged, so run experiments.prepare again; it keeps finished cases"
)


class StoreSettings(TypedDict):
    """The settings with which the cases of a store are made.

    Attributes:
      target_mm: spacing of the training grid, x, y, z.
      window_hu: HU that become -1 and 1.
      label_values: file value, as text -> class; None if label files hold the classes themselves.
    """

    target_mm: list[float]
    window_hu: list[float]
    label_values: dict[str, int] | None


class CannotWrite(OSError):
    """The store cannot be written: a full disk, a quota, a missing permission.

    The next case would fail as well. The message names the file.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class StoredCase:
    """One prepared case on disk, see `case_source.PreparedCase`.

    The arrays are mapped when they are read, and a limited number of maps stays open: a cohort of
    hundreds of cases would otherwise exhaust the file handles of the process.

    Attributes:
      fingerprint: digest of the files and settings from which the case was made.
    """

    case_id: str
    number: int
    folder: pathlib.Path
    fingerprint: str
    native: Grid
    target_mm: tuple[float, float, float]

    @property
    def image(self) -> np.ndarray:
        """float16 memory map [x, y, z] in [-1, 1]."""
        return self._map("image.npy")

    @property
    def label(self) -> np.ndarray:
        """uint8 memory map [x, y, z]."""
        return self._map("label.npy")

    @functools.cached_property
    def runs(self) -> LabelRuns:
        """Where the label's foreground is: a few kilobytes, kept in memory."""
        shape = axes.three(self._layouts["label.npy"][1])
        return LabelRuns(shape, array_files.load(self.folder / "runs.npy"))

    def native_label(self) -> np.ndarray:
        """Returns the label on the scan's own grid, uint8, in the scan's own axis order."""
        return LabelRuns(
            self.native.shape, array_files.load(self.folder / "native_runs.npy")
        ).array("F")

    def _map(self, name: str) -> np.ndarray:
        return _opened(self.fingerprint, self.folder / name, *self._layouts[name])

    @functools.cached_property
    def _layouts(self) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
        # read only once: parsing the file's header takes four times as long as mapping it
        maps = {name: array_files.load(self.folder / name, mmap_mode="r") for name in _MAPPED}
        return {name: (array.dtype, array.shape, array.offset) for name, array in maps.items()}


@functools.lru_cache(maxsize=_OPEN_MAPS)
def _opened(
    fingerprint: str, path: pathlib.Path, dtype: np.dtype, shape: tuple[int, ...], offset: int
) -> np.ndarray:
    # Maps stay open, because a new map of a file would have to load its pages again. The
    # fingerprint is part of the key, so that the map of an earlier version is not used.
    del fingerprint
    return np.memmap(path, dtype, "r", offset, shape)


class CaseStore:
    """The prepared cases of a site on disk, see `case_source.CaseSource`.

    Attributes:
      seed: seed of the split.
      splits: name -> cases.

    Raises:
      ValueError: if `root` holds no finished store, a damaged one, or one of a newer release.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(root)
        refuse_newer(self.root)
        index = _read_index(self.root)
        private.tree(self.root)
        self.site: str = index["site"]
        self.settings: StoreSettings = index["settings"]
        self.seed: int = index["seed"]
        self.declared: dict[str, str] | None = index.get("declared_labels")
        self.splits: dict[str, tuple[str, ...]] = {
            name: tuple(ids) for name, ids in index["splits"].items()
        }
        self._numbers: dict[str, int] = index["numbers"]
        self._sources: dict[str, str] = index["sources"]

    def case_ids(self, split: str | None = None) -> tuple[str, ...]:
        """Returns the cases of a split, or all cases, in the order of their numbers.

        Raises:
          ValueError: for a split that does not exist.
        """
        if split is None:
            return tuple(sorted(self._numbers, key=self._numbers.__getitem__))
        if split not in self.splits:
            raise ValueError(
                f"there is no split {split!r}; expected one of {', '.join(self.splits)}"
            )
        return self.splits[split]

    def open(self, case_id: str) -> StoredCase:
        """Returns a case.

        Raises:
          ValueError: if it is not in this store, or its folder does not match the index.
        """
        if case_id not in self._numbers:
            raise ValueError(
                f"{self.root}: no case {case_id!r}; it is not in the manifest that was prepared"
            )
        folder = case_folder(self.root, case_id)
        found = read_case_record(folder)
        if (
            found is None
            or fingerprint(found.get("sources", {}), found.get("settings", {}))
            != self._sources[case_id]
        ):
            raise ValueError(
                f"{folder}: is missing, or was made from other files or settings than the index "
                "says; run the preparation again"
            )
        native = Grid(
            axes.three(found["native"]["shape"]),
            np.array(found["native"]["affine"], dtype=np.float64),
        )
        return StoredCase(
            case_id,
            self._numbers[case_id],
            folder,
            self._sources[case_id],
            native,
            axes.three(self.settings["target_mm"]),
        )


@dataclasses.dataclass(frozen=True)
class Record:
    """How a store was made. Entries that an earlier release did not record are None.

    Attributes:
      number_of_cases: number of cases in all splits together.
      target_mm: spacing of the training grid, x, y, z.
      window_hu: HU that became -1 and 1.
      label_values: file value -> class; None if the label files hold the classes themselves.
      classes: value of a prepared label -> name.
      format: `FORMAT` of the release that prepared the cases.
      release: version of that release.
      declared: the site's declaration about each class of its labels.
      problems: one phrase for each case that does not match the index, with its running number.
    """

    site: str
    number_of_cases: int
    target_mm: tuple[float, ...] | None
    window_hu: tuple[float, ...] | None
    label_values: dict[int, int] | None
    classes: dict[int, str] | None
    format: int | None
    release: str | None
    declared: dict[str, str] | None
    problems: tuple[str, ...]


def refuse_newer(root: pathlib.Path) -> None:
    """Raises ValueError if a newer release prepared the cases in `root`."""
    path = root / "index.json"
    try:
        index = atomic.read_json(path) if path.is_file() else None
    except ValueError:
        return  # no release wrote it; another preparation replaces it
    if isinstance(index, dict):
        formats.refuse_newer(path, index.get("format"), FORMAT, unstated=UNSTATED)


def site_of(root: str | os.PathLike) -> str:
    """Returns the site whose prepared cases are in `root`, without changing anything there.

    Raises:
      ValueError: if it holds no finished store.
    """
    return _read_index(pathlib.Path(root))["site"]


def record_of(root: str | os.PathLike) -> Record:
    """Returns how the cases in `root` were made, without changing anything there.

    Raises:
      ValueError: if it holds no finished store.
    """
    root = pathlib.Path(root)
    index = _read_index(root)
    settings, classes = index["settings"], index.get("classes")
    values = settings.get("label_values")
    return Record(
        site=index["site"],
        number_of_cases=len(index["numbers"]),
        target_mm=_floats(settings.get("target_mm")),
        window_hu=_floats(settings.get("window_hu")),
        label_values=None
        if values is None
        else {int(value): int(label) for value, label in values.items()},
        classes=None if classes is None else {int(value): name for value, name in classes.items()},
        format=index.get("format"),
        release=index.get("release"),
        declared=index.get("declared_labels"),
        problems=tuple(_problems(root, index)),
    )


def _floats(values: Iterable[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def _problems(root: pathlib.Path, index: Mapping[str, Any]) -> Iterator[str]:
    for case_id, number in sorted(index["numbers"].items(), key=lambda item: item[1]):
        found = read_case_record(case_folder(root, case_id))
        if found is None:
            yield f"case {number} is missing or incomplete"
            continue
        own, expected = found.get("settings", {}), index["settings"]
        different = [
            name for name in sorted({*own, *expected}) if own.get(name) != expected.get(name)
        ]
        for name in different:
            yield (
                f"case {number} was made with {name} {own.get(name)}, "
                f"the index says {expected.get(name)}"
            )
        if (
            not different
            and fingerprint(found.get("sources", {}), own) != index["sources"][case_id]
        ):
            yield (
                f"case {number} was made from other files than the index says, or by a release "
                "with another format"
            )


def _read_index(root: pathlib.Path) -> dict[str, Any]:
    path = root / "index.json"
    try:
        index = atomic.read_json(path, remedy=_PREPARE_AGAIN)
    except FileNotFoundError:
        if (root / "rejected.json").is_file():
            raise ValueError(
                f"{root}: cannot be used yet, because the preparation refused cases; "
                f"{root / 'rejected.json'} names them. Correct or exclude them and run "
                "experiments.prepare again, or add --nostrict to go on without them"
            ) from None
        near = _stores_near(root)
        remedy = (
            f"give one of the folders with prepared cases: {', '.join(map(str, near))}"
            if near
            else "make them with experiments.prepare, let it finish first, or correct the path"
        )
        raise ValueError(f"{root}: holds no prepared cases (no index.json); {remedy}") from None
    if not _is_newer(index):
        try:
            stored_records.check_index(index)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {_PREPARE_AGAIN}") from error
    return index


def _is_newer(record: Any) -> bool:
    """Returns whether a newer release wrote a record, which may then hold anything."""
    return (
        isinstance(record, dict) and type(record.get("format")) is int and record["format"] > FORMAT
    )


def _stores_near(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns up to three site folders that the user may have meant.

    People give the folder of all sites, or the folder `cases` itself, as the site's folder. `root`
    is the `cases` in the folder that was given.
    """
    if root.name != "cases":
        return []
    given = root.parent
    found = [given / "index.json", *sorted(given.glob("*/cases/index.json"))]
    sites = [path.parent.parent for path in found if path.is_file()]
    return sites[:3]


def case_folder(root: pathlib.Path, case_id: str) -> pathlib.Path:
    return pathlib.Path(root) / "cases" / case_id


def fingerprint(sources: Mapping[str, str], settings: Mapping[str, object]) -> str:
    """Returns a hex digest of everything a case depends on: its files' content and the settings."""
    text = json.dumps([FORMAT, dict(sources), dict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_case_record(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the content of case.json, or None if there is no complete case.

    Raises:
      OSError: if the file cannot be read, in which case nothing is known about the case.
    """
    try:
        record = atomic.read_json(pathlib.Path(folder) / "case.json")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record if _is_newer(record) or stored_records.is_case(record) else None


def classes_of_label(root: pathlib.Path, case_id: str) -> set[int]:
    """Returns the classes that occur in a case's label on the scan's own grid."""
    runs = array_files.load(case_folder(root, case_id) / "native_runs.npy")
    return {int(value) for value in np.unique(runs[:, 2])}


def write_case(
    root: pathlib.Path,
    case_id: str,
    *,
    image: Iterable[np.ndarray],
    label: LabelBox,
    native_label: LabelBox,
    native: Grid,
    sources: Mapping[str, str],
    settings: StoreSettings,
    slices: Iterable[str] = (),
) -> None:
    """Writes the folder of a case and replaces an earlier version of it.

    Args:
      image: float16 in [-1, 1] on the training grid, as slabs [n, y, z] in the order of x; each is
          written before the next is requested.
      label: classes on the training grid, with the image's shape.
      native_label: classes on the scan's own grid.
      sources: name of the source -> sha256 of the file.
      slices: marks by which the scan is recognised under another name.
    Raises:
      ValueError: if the volume has too many voxels for a 32-bit index, or image and label differ in
          the number of voxels.
      CannotWrite: naming the file. No part of the case is left; an earlier version is kept.
    """
    voxels = math.prod(label.shape)
    if voxels > np.iinfo(np.int32).max:
        raise ValueError(
            f"case {case_id} has {voxels} voxels at this spacing; "
            "choose a coarser spacing or crop the scan"
        )
    private.folder(root)
    target = case_folder(root, case_id)
    with _writing(target, "case.json"), atomic.replacing_folder(target) as folder:
        with _writing(target, "runs.npy"):
            array_files.save(folder / "runs.npy", label.runs().runs)
        with _writing(target, "native_runs.npy"):
            array_files.save(folder / "native_runs.npy", native_label.runs().runs)
        with _writing(target, "label.npy"):
            _save_label(folder / "label.npy", label)
        with _writing(target, "image.npy"):
            written = _save_image(folder / "image.npy", label.shape, image)
        if written != voxels:
            raise ValueError(
                f"case {case_id}: its image has {written} voxels, its label {voxels}; "
                "resample both to the same grid"
            )
        value = {
            "case_id": case_id,
            "format": FORMAT,
            "sources": dict(sources),
            "settings": dict(settings),
            "native": {"shape": [int(n) for n in native.shape], "affine": native.affine.tolist()},
            "slices": list(slices),
        }
        # no atomic write here: the whole folder is synced and renamed
        (folder / "case.json").write_text(
            json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )


def write_index(
    root: pathlib.Path,
    *,
    site: str,
    seed: int,
    settings: StoreSettings,
    splits: Mapping[str, Iterable[str]],
    sources: Mapping[str, Mapping[str, str]],
    declared: Mapping[str, str] | None = None,
) -> None:
    """Writes index.json, which turns the case folders into a store.

    Args:
      sources: case -> hashes of its files, in the order of the running numbers.
      declared: what the site says about each class of its labels.
    """
    atomic.write_json(
        private.folder(root) / "index.json",
        {
            "site": site,
            "seed": seed,
            "settings": dict(settings),
            "classes": {str(value): name for value, name in CLASSES.items()},
            "declared_labels": None if declared is None else dict(declared),
            "format": FORMAT,
            "release": release.version(),
            "splits": {name: list(ids) for name, ids in splits.items()},
            "numbers": {case_id: number for number, case_id in enumerate(sources, start=1)},
            "sources": {
                case_id: fingerprint(hashes, settings) for case_id, hashes in sources.items()
            },
        },
    )


@contextlib.contextmanager
def _writing(folder: pathlib.Path, name: str) -> Iterator[None]:
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(
            f"{folder / name}: cannot be written ({error.strerror or error})"
        ) from error


def _save_image(path: pathlib.Path, shape: Sequence[int], slabs: Iterable[np.ndarray]) -> int:
    """Writes the slabs one after the other. Returns their number of voxels."""
    written = 0
    with open(path, "wb") as stream:
        _write_header(stream, np.float16, shape)
        for slab in slabs:
            stream.write(np.ascontiguousarray(slab, dtype=np.float16).data)
            written += slab.size
    return written


def _save_label(path: pathlib.Path, label: LabelBox) -> None:
    with open(path, "wb") as stream:
        _write_header(stream, np.uint8, label.shape)
        begin, (_, y, z) = stream.tell(), label.shape
        stream.truncate(begin + math.prod(label.shape))
        plane = np.zeros((y, z), dtype=np.uint8)
        for x, part in enumerate(label.voxels, start=label.start[0]):
            plane[label.slices[1:]] = part
            stream.seek(begin + x * y * z)
            stream.write(plane.data)


def _write_header(stream: BinaryIO, dtype: type, shape: Sequence[int]) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": tuple(int(n) for n in shape),
    }
    np.lib.format.write_array_header_1_0(stream, header)
