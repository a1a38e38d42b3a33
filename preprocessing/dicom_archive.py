"""Unpacks a zip of a DICOM series into a temporary folder, within limits.

Paths in the archive are never used as paths on disk: folders get numbers, and so do files unless
their names are plain. Errors use the names in the archive.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

from preprocessing import rules
from preprocessing.rules import IntegrityError, broken

MOST_FILES = 50_000
MOST_BYTES = 16 * 2**30
# Largest compression ratio, beyond the first bytes: a CT shrinks by a factor of two to four, pure
# air by a thousand; small archives do no harm.
_RATIO, _FREE_OF_RATIO = 100, 2**26
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,12}\Z")
_BLOCK = 2**20
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    ValueError,
    RuntimeError,
    OSError,
    UnicodeError,
    LookupError,
)


def is_archive(path: pathlib.Path) -> bool:
    """Returns whether a path is read as a zip: it ends in .zip and is not a folder."""
    return path.suffix.lower() == ".zip" and not path.is_dir()


@contextlib.contextmanager
def unpacked(
    path: pathlib.Path, *, most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES
) -> Iterator[pathlib.Path]:
    """Yields a folder with the archive's files and removes it at the end of the block.

    Hidden files are left out; files of different folders stay separate. If the block raises an
    IntegrityError that names a file in the folder, the error is changed to name the file in the
    archive.

    Args:
      most_files, most_bytes: limits on the contents of the archive.
    Raises:
      IntegrityError: rule D16 for a damaged file or one that is not a zip, for too many files or
        bytes, for contents that are compressed more densely than scans can be, a password, a link,
        and a name that leads out of the archive or occurs twice. Problems that the archive's list
        of files shows are refused before anything is written. Rule F01 if there is no such file.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise broken(rules.MISSING, path, "no such file") from error
    except _BROKEN as error:
        raise broken(rules.ARCHIVE, path, f"cannot be read as a zip ({error})") from error
    with archive, tempfile.TemporaryDirectory(prefix="dicom-") as temporary:
        folder = pathlib.Path(temporary)
        members = _members(archive, path, most_files, most_bytes)
        total = sum(info.file_size for info, _ in members)
        free = shutil.disk_usage(folder).free
        if total > free:
            problem = (
                f"holds {total / 1e9:.1f} GB, and {folder.parent} has {free / 1e9:.1f} GB free"
            )
            fix = "free space there, or name another folder in the variable TMPDIR"
            raise broken(rules.ARCHIVE, path, problem, fix)
        names = _unpack(archive, members, folder, path)
        try:
            yield folder
        except IntegrityError as error:
            raise _renamed(error, folder, path, names) from error


def _members(
    archive: zipfile.ZipFile, path: pathlib.Path, most_files: int, most_bytes: int
) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    """Returns the files to unpack with their folders and names, checked."""

    def refused(problem: str) -> IntegrityError:
        return broken(rules.ARCHIVE, path, problem)

    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) > most_files:
        raise refused(f"holds {len(members)} files; a series has at most {most_files}")
    total = sum(info.file_size for info in members)
    packed = path.stat().st_size
    if total > most_bytes:
        raise refused(
            f"would take {total / 1e9:.1f} GB; a series takes at most {most_bytes / 1e9:.1f} GB"
        )
    if total > _FREE_OF_RATIO and total > _RATIO * packed:
        raise refused(f"holds {total} bytes in {packed}: packed more densely than any scan")
    seen: dict[tuple[str, ...], zipfile.ZipInfo] = {}
    for info in members:
        name, parts = info.filename, _parts(info)
        if parts is None:
            raise refused(f"holds {name!r}, a name that leads out of the archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise refused(f"holds {name!r}, which is a link")
        if info.flag_bits & 0x1:
            raise refused(f"holds {name!r}, which needs a password")
        if parts in seen:
            raise refused(f"holds {name!r} twice")
        seen[parts] = info
    return [
        (info, parts)
        for parts, info in seen.items()
        if not any(part.startswith(".") or part == "__MACOSX" for part in parts)
    ]


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...] | None:
    """Returns the folders and the name of a member, None if its path leads out of the archive."""
    name = info.orig_filename.replace("\\", "/")  # older Windows programs write backslashes
    parts = tuple(part for part in name.split("/") if part != ".")
    inside = (
        not name.startswith("/")
        and ".." not in parts
        and "" not in parts
        and "\0" not in name
        and parts
    )
    return parts if inside and not re.match(r"[A-Za-z]:", name) else None


def _unpack(
    archive: zipfile.ZipFile,
    members: list[tuple[zipfile.ZipInfo, tuple[str, ...]]],
    folder: pathlib.Path,
    path: pathlib.Path,
) -> dict[str, str]:
    """Writes the files. Returns path -> name in the archive."""
    folders: dict[tuple[str, ...], pathlib.Path] = {}
    names: dict[str, str] = {}
    for number, (info, parts) in enumerate(members):
        *above, name = parts
        inner = folders.get(tuple(above))
        if inner is None:
            inner = folders[tuple(above)] = folder / f"{len(folders):05d}"
            inner.mkdir()
        suffix = _SUFFIX.search(name)
        target = inner / (
            name if _PLAIN.match(name) else f"unpacked{number:06d}{suffix[0] if suffix else ''}"
        )
        names[str(target)] = info.filename
        try:
            with archive.open(info) as source, open(target, "xb") as sink:
                shutil.copyfileobj(source, sink, _BLOCK)
        except _BROKEN as error:
            problem = f"{info.filename!r} cannot be unpacked ({error})"
            raise broken(rules.ARCHIVE, path, problem, _remedy(error)) from error
    return names


def _remedy(error: Exception) -> str | None:
    full = isinstance(error, OSError) and error.errno is not None
    return (
        "free space in the folder for temporary files, or name another in the variable TMPDIR"
        if full
        else None
    )


def _renamed(
    error: IntegrityError, folder: pathlib.Path, path: pathlib.Path, names: dict[str, str]
) -> IntegrityError:
    """Returns the error with the names of the archive in place of those in the folder."""
    short = {
        pathlib.Path(file).name: pathlib.PurePosixPath(name).name for file, name in names.items()
    }

    def plain(text: str) -> str:
        for file in sorted(
            re.findall(re.escape(str(folder)) + r"/\d{5}/[^\s:;,)]+", text), key=len, reverse=True
        ):
            text = text.replace(file, f"{path}/{names.get(file, '')}")
        text = re.sub(
            r"unpacked\d{6}(\.[A-Za-z0-9]{1,12})?",
            lambda found: short.get(found[0], found[0]),
            text,
        )
        return text.replace(str(folder), str(path))

    return IntegrityError(error.rule, plain(error.file), plain(error.problem), plain(error.fix))
