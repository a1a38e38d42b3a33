"""Atomic writes: a reader finds a complete file or none, even if the writer is killed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from runkit import disk, json_text, private, text_files
from runkit.durable import sync_directory

PARTIAL = ".partial-"  # how temporary names begin
REMEDY = "restore it or make it again"
_LONGEST_SUFFIX = 32  # bytes
_DISK_ERRORS = (*disk.FULL, errno.EIO)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, *, sync: bool = True, sync_folder: bool = True
) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`: renamed to it on success, removed on any error.

    The temporary name keeps the last suffixes of `path`, because many writers choose their format
    by them, and starts with a dot, so that a folder listing does not mistake it for a result. The
    file's permissions are no wider than its folder's (see `private`).

    Args:
      sync: False if the block syncs the file itself.
      sync_folder: False if a power cut may restore the earlier file.
    """
    path = pathlib.Path(path)
    with naming(path):
        temporary = _temporary_beside(path)
        try:
            yield temporary
            if sync:
                with open(temporary, "rb+") as stream:
                    os.fsync(stream.fileno())
            os.chmod(temporary, private.mode_in(path.parent, 0o666))
            os.replace(temporary, path)
            if sync_folder:
                sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def leftovers(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the temporary files and folders in a folder, which a killed writer left there."""
    return folder.glob(f"{PARTIAL}*")


def _temporary_beside(path: pathlib.Path) -> pathlib.Path:
    suffix = "".join(path.suffixes[-2:])  # .nii.gz; the rest of a long name need not fit twice
    if len(os.fsencode(suffix)) > _LONGEST_SUFFIX:
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX else ""
    try:
        descriptor, name = tempfile.mkstemp(prefix=PARTIAL, suffix=suffix, dir=path.parent)
    except FileNotFoundError:
        private.make(path.parent)
        descriptor, name = tempfile.mkstemp(prefix=PARTIAL, suffix=suffix, dir=path.parent)
    os.close(descriptor)
    return pathlib.Path(name)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary folder beside `path`: it replaces `path` on success, is removed on error.

    Its files and their names are synced before the rename. What `path` was before is renamed too
    and then removed, so that a kill leaves no part of it under its name. A kill between the two
    renames leaves nothing under that name; `restore_folder`, which this function calls too, gives
    it back.
    """
    path = pathlib.Path(path)
    with naming(path):
        private.make(path.parent)
        restore_folder(path)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=PARTIAL, dir=path.parent))
        before = _before(path)
        try:
            try:
                yield temporary
            except OSError as error:
                if error.filename is not None:
                    error.filename = os.fspath(error.filename).replace(
                        os.fspath(temporary), os.fspath(path)
                    )
                raise
            _sync_all_in(temporary)
            private.inherit(temporary)
            os.chmod(temporary, private.mode_in(path.parent, 0o777))
            if path.is_dir() and not path.is_symlink():
                os.replace(path, before)
            os.replace(temporary, path)  # fails if a file or a link is there
            sync_directory(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if path.exists():
                shutil.rmtree(before, ignore_errors=True)
            elif before.exists():  # the second rename failed
                os.replace(before, path)


def restore_folder(path: str | os.PathLike) -> None:
    """Gives a folder its name back if a kill or a power cut interrupted its replacement.

    No other process may be replacing it.
    """
    path = pathlib.Path(path)
    before = _before(path)
    if os.path.lexists(path):
        shutil.rmtree(before, ignore_errors=True)
    elif before.is_dir():
        os.replace(before, path)
        sync_directory(path.parent)


def _before(path: pathlib.Path) -> pathlib.Path:
    """Returns the name that an existing folder has while it is replaced."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()  # a long name would not fit
    return path.with_name(f"{PARTIAL}{digest[:16]}-before")


def _sync_all_in(folder: pathlib.Path) -> None:
    for place in (folder, *folder.rglob("*")):
        if place.is_dir():
            sync_directory(place)
        elif place.is_file():
            with open(place, "rb+") as stream:
                os.fsync(stream.fileno())


class naming:
    """Puts `path` into errors of the system raised in the block that name no file, as those about a
    full or failing disk, or that name the temporary one.

    Args:
      needed: bytes that the file takes, if known.
    """

    __slots__ = ("_needed", "_path")

    def __init__(self, path: str | os.PathLike, needed: int | None = None):
        self._path, self._needed = path, needed

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if error is not None and isinstance(error, OSError):
            self.name(error)

    def name(self, error: OSError) -> None:
        """Puts the path into one error; for code that is called too often for a block."""
        nameless = error.filename is None and error.errno in _DISK_ERRORS
        named = isinstance(error.filename, str | bytes | os.PathLike)  # a number is a descriptor
        temporary = named and PARTIAL in os.fsdecode(error.filename)
        if nameless or temporary:
            error.filename = os.fspath(self._path)
            del error.filename2  # a rename has two; None would be shown
        about_disk = error.errno in _DISK_ERRORS and error.filename == os.fspath(self._path)
        if about_disk and self._needed is not None:
            error.strerror = f"{error.strerror}; it takes {self._needed:,} bytes"


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file; an error about a full disk includes its name and size."""
    with naming(path, len(content)), replacing(path) as temporary:
        temporary.write_bytes(content)


def read_bytes(path: str | os.PathLike) -> bytes:
    """Reads a file; an error of the disk includes its name."""
    with naming(path):
        return pathlib.Path(path).read_bytes()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes text as UTF-8; file names that are not UTF-8 keep their bytes."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON. Raises ValueError on NaN, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, *, remedy: str = REMEDY) -> Any:
    """Reads JSON, with or without a byte-order mark.

    Args:
      remedy: what to do if it is not JSON.
    Raises:
      ValueError: naming the file, if it is not JSON.
    """
    with naming(path):
        text = text_files.read(path)
    try:
        return json_text.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); {remedy}") from error


def read_object(path: str | os.PathLike, *, remedy: str = REMEDY) -> dict[str, Any]:
    """Reads a JSON object. Args and errors are those of `read_json`, also for any other value."""
    found = read_json(path, remedy=remedy)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is not a JSON object; {remedy}")
    return found
