"""Finds the files of a folder that are the slices of a CT series.

A series is refused if a file that may be one of its slices cannot be read, because the scan would
look complete without it. Files that are clearly something else (reports, localizers, text,
pictures) are left out.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator

from preprocessing import dicom_header, regular_files, rules
from preprocessing.dicom_header import Header
from preprocessing.rules import IntegrityError, broken

_CT_STORAGE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
)
# The prefix of single- and multi-frame captures: screenshots and dose reports, which many scanners
# mark as CT.
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_UID = re.compile(r"[0-2](\.(0|[1-9]\d*))+\Z")
_DICOMDIR = "1.2.840.10008.1.3.10"
SUFFIXES = frozenset((".dcm", ".dicom", ".ima"))
# Suffixes after the usual one, of a slice that is still being copied, or compressed.
_ON_TOP = frozenset(
    (".part", ".partial", ".crdownload", ".filepart", ".download", ".tmp", ".gz", ".bz2", ".xz")
)
# Beginnings of placeholder texts for a file whose content was not fetched, and the remedy.
_POINTERS = {
    b"/annex/objects/": "datalad get {path} (or git annex get {path})",
    b"version https://git-lfs": "git lfs pull --include={path}",
}
_OTHER_KINDS = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"%PDF",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"BM",
    b"SQLite",
    b"\x7fELF",
    b"MZ",
    b"Rar!",
    b"7z\xbc\xaf",
)


@dataclasses.dataclass(frozen=True)
class Series:
    """A CT series of a folder.

    Attributes:
      slices: headers of its files.
      left_out: kind and header of the series' files that are not treated as slices.
    """

    uid: str
    slices: tuple[Header, ...]
    left_out: tuple[tuple[str, Header], ...] = ()

    def __str__(self) -> str:
        first = self.slices[0]
        number, description = first.label("SeriesNumber"), first.label("SeriesDescription")
        count = sum(_frames(header) for header in self.slices)
        about = [
            *([f"number {number}"] if number else []),
            *([repr(description)] if description else []),
        ]
        about.append(f"{count} slice" + "s" * (count != 1))
        return f"{self.uid or 'without SeriesInstanceUID'} ({', '.join(about)})"


def files_in(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the files below a folder that may be DICOM, sorted by name.

    Hidden files and folders (.git, the ._ files of macOS) are left out. Links to folders are
    followed, each folder once. A link to a file that itself lies below the folder is left out.

    Raises:
      IntegrityError: naming a folder that cannot be listed.
    """
    return listing(pathlib.Path(folder))[0]


def choose(
    path: pathlib.Path,
    files: Iterable[pathlib.Path],
    missing: Iterable[pathlib.Path],
    wanted: str | None,
) -> Series:
    """Returns the CT series among files.

    Args:
      path: folder, zip or file that holds them, for error messages.
      missing: links whose target does not exist.
      wanted: SeriesInstanceUID or SeriesNumber, if there are several series.
    Raises:
      IntegrityError: for the first rule that is broken.
    """
    found = _Found()
    for file in files:
        found.add(file)
    for link in missing:
        fix = "restore the file, or remove the link if it is not a slice"
        found.unread.append((link, regular_files.not_there(link, fix)))
    return found.choose(path, wanted)


def listing(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the files of `files_in`, and the links whose target does not exist, both sorted."""
    files, linked, dangling = [], [], []
    for path, link in _entries(folder):
        if not link:
            files.append(path)
        elif path.is_file():
            linked.append(path)
        elif not path.exists():
            dangling.append(path)
    files = [path for path in files if path.is_file()]
    if linked:
        plain = {os.path.realpath(path) for path in files}
        files += [path for path in linked if os.path.realpath(path) not in plain]
    return sorted(files), sorted(dangling)


def may_be_slice(file: pathlib.Path) -> bool:
    """Returns whether a file is DICOM, or may be a damaged slice by its name and beginning."""
    try:
        start = dicom_header.start_of(file)
    except OSError:
        return _is_named_as_slice(file, ())
    return dicom_header.is_dicom(start) or (
        _unlike_dicom(file, start) is not None and _is_named_as_slice(file, ())
    )


class _Found:
    """The files of a folder, sorted by what they are."""

    def __init__(self) -> None:
        self.groups: dict[str, list[Header]] = defaultdict(list)
        self.left_out: dict[str, list[tuple[str, Header]]] = defaultdict(list)
        self.others: Counter[str] = Counter()
        self.captures: list[pathlib.Path] = []
        self.unread: list[tuple[pathlib.Path, IntegrityError]] = []
        self.suffixes: set[str] = set()

    def add(self, file: pathlib.Path) -> None:
        try:
            start = dicom_header.start_of(file)
            if not dicom_header.is_dicom(start):
                error = _unlike_dicom(file, start)
                if error is not None:
                    self.unread.append((file, error))
                return
            self.suffixes.add(file.suffix.lower())
            header = dicom_header.read(file)
            self._sort_in(header)
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
            self.unread.append((file, broken(rules.MISSING, file, problem)))
        except IntegrityError as error:
            self.suffixes.add(file.suffix.lower())
            self.unread.append((file, error))

    def _sort_in(self, header: Header) -> None:
        modality, uid = header.text("Modality").upper(), header.text("SeriesInstanceUID")
        kind = _kind(header, modality)
        if kind is None:
            self.groups[uid].append(header)
            return
        self.others[kind] += 1
        if kind == "secondary capture":
            self.captures.append(header.path)
        if uid:
            self.left_out[uid].append((kind, header))

    def choose(self, path: pathlib.Path, wanted: str | None) -> Series:
        series = {
            uid: Series(uid, tuple(slices), tuple(self.left_out.get(uid, ())))
            for uid, slices in self.groups.items()
        }
        chosen = _named(series.values(), wanted) if wanted is not None else list(series.values())
        listed = ", ".join(map(str, sorted(series.values(), key=lambda s: s.uid))) or "none"
        if len(chosen) > 1:
            problem = f"holds {len(chosen)} CT series{f' {wanted}' if wanted else ''}: {listed}"
            raise broken(rules.SEVERAL_SERIES, path, problem)
        self._refuse_unread(chosen, wanted)
        if chosen:
            return chosen[0]
        if wanted is not None:
            raise broken(rules.SEVERAL_SERIES, path, f"holds no CT series {wanted}, but {listed}")
        if self.captures:
            problem = "is a secondary capture: a picture, not a reconstruction"
            raise broken(rules.NOT_GREY, self.captures[0], problem)
        if self.others:
            counts = ", ".join(f"{count} {name}" for name, count in sorted(self.others.items()))
            raise broken(rules.NOT_CT, path, f"holds no CT slices, but {counts}")
        raise broken(rules.NO_SERIES, path, "holds no DICOM file")

    def _refuse_unread(self, chosen: list[Series], wanted: str | None) -> None:
        """Raises IntegrityError if an unreadable file may be a slice of the chosen series."""
        unread = [
            (file, error) for file, error in self.unread if _is_named_as_slice(file, self.suffixes)
        ]
        if wanted is not None and len(chosen) == 1:
            own = {header.path.parent for header in chosen[0].slices}
            foreign = {
                header.path.parent for slices in self.groups.values() for header in slices
            } - own
            unread = [(file, error) for file, error in unread if file.parent not in foreign]
        if not unread:
            return
        _, error = unread[0]
        if len(unread) > 1:
            problem = (
                f"{error.problem}; {len(unread) - 1} more files that may be slices cannot be read "
                f"either, the last is {unread[-1][0].name}"
            )
            raise IntegrityError(error.rule, error.file, problem, error.fix) from error
        raise error


def _is_named_as_slice(file: pathlib.Path, others: Collection[str]) -> bool:
    """Returns whether a slice may have this name.

    Args:
      others: suffixes of the slices beside it.
    """
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _ON_TOP:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    # digits: the end of a UID, which looks like a suffix
    return not last or last[1:].isdigit() or last in SUFFIXES or last in others


def _kind(header: Header, modality: str) -> str | None:
    """Returns the kind of a DICOM file, None for a CT slice.

    Raises:
      IntegrityError: if it may be a CT slice but lacks an attribute that would tell.
    """
    storage = header.storage_class
    if storage == _DICOMDIR:
        return "DICOMDIR"
    if not modality:
        if storage and storage not in _CT_STORAGE and not header.has("Rows"):
            return "object of unknown modality"
        raise _incomplete(header, "Modality")
    if modality != "CT":
        return modality
    if not storage:
        raise _incomplete(header, "SOPClassUID")
    if storage.startswith(_SECONDARY_CAPTURE):
        return "secondary capture"
    # A specialised class may name the general class, all of whose attributes it has.
    if storage not in _CT_STORAGE and not set(_CT_STORAGE).intersection(
        header.texts("RelatedGeneralSOPClassUID")
    ):
        if not _UID.match(storage):
            problem = f"SOPClassUID is {storage!r}, which is not a UID"
            raise broken(rules.ATTRIBUTE, header.path, problem)
        if header.has("Rows"):
            return f"CT object of another class ({storage})"
        if header.pixels is None:
            return "CT object without an image"  # protocols and raw data
    if "LOCALIZER" in (value.upper() for value in header.texts("ImageType")):
        return "localizer"
    if not header.has("Rows"):
        raise _incomplete(header, "Rows")
    if header.pixels is None:
        raise _incomplete(header, "pixel data")
    return None


def _incomplete(header: Header, lacks: str) -> IntegrityError:
    if header.pixels is None:
        problem = f"has no {lacks} and ends before its pixels: it was cut short inside its header"
        return broken(rules.UNDECODABLE, header.path, problem)
    return broken(rules.ATTRIBUTE, header.path, f"has no {lacks}")


def _named(series: Iterable[Series], wanted: str) -> list[Series]:
    by_uid = [one for one in series if one.uid == wanted]
    return by_uid or [one for one in series if one.slices[0].label("SeriesNumber") == wanted]


def _entries(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, bool]]:
    """Yields the files below a folder that are not hidden, and whether each is a link."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        real = os.path.realpath(parent)
        if real in seen:  # linked twice, or a link to a parent folder
            continue
        seen.add(real)
        try:
            entries = [entry for entry in os.scandir(parent) if not entry.name.startswith(".")]
        except OSError as error:
            raise broken(rules.MISSING, parent, f"cannot be listed ({error.strerror})") from error
        for entry in entries:
            if _is_folder(entry):
                waiting.append(pathlib.Path(entry.path))
            else:
                yield pathlib.Path(entry.path), entry.is_symlink()


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that this user may not read
        return False


def _unlike_dicom(file: pathlib.Path, start: bytes) -> IntegrityError | None:
    """Returns the error for a file that does not begin like DICOM.

    None if its content shows that it is another kind of file.
    """
    if not start:
        return broken(rules.UNDECODABLE, file, "is empty")
    for sign, remedy in _POINTERS.items():
        if start.startswith(sign):
            problem = "is a placeholder: the content of the file was not fetched"
            return broken(rules.MISSING, file, problem, remedy.format(path=file))
    named = any(suffix.lower() in SUFFIXES for suffix in file.suffixes)
    # LICENSE is a text and thumbs a picture. But if IM0017 is a text, it may be an error message of
    # the server that should have sent the slice, and if it is gzip, it may be the compressed slice.
    if not (named or any(character.isdigit() for character in file.name)) and (
        start.startswith(_OTHER_KINDS) or _is_text(start)
    ):
        return None
    problem = (
        "does not begin like a DICOM file: it is damaged, cut short in its header, "
        "or something else"
    )
    return broken(rules.UNDECODABLE, file, problem)


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # later, the end of the sample may cut a character
            return False
        text = start[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\ufeff" for character in text)


def _frames(header: Header) -> int:
    try:
        return header.count("NumberOfFrames") or 1
    except IntegrityError:
        return 1
