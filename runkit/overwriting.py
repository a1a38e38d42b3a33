"""Whether what a program writes would replace what it reads."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

Named = Mapping[str, Iterable[str | os.PathLike]]


def require_apart(inputs: Named, outputs: Named, *, folders: Named | None = None) -> None:
    """Raises ValueError where writing `outputs` would replace or change an input, before anything
    is written.

    Two paths are one file if they are spelled differently, lead through links, or differ only in
    capitals or in the form of Unicode, which some disks do not tell apart.

    Args:
      inputs: what the user calls them, e.g. "--image" -> files and folders. A folder is an input as
          a whole: no output may lie in it.
      outputs: files to write.
      folders: folders that the program fills, clears or makes anew: no input may lie in them.
    Raises:
      ValueError: naming the output, the input, and what the user called them.
    """
    known = _Paths(inputs)
    for name, path in _listed(outputs) + _listed(folders or {}):
        for place in _upwards(path):
            found = known.find(place)
            if found is not None:
                where = "is" if place == path else "lies in"
                raise ValueError(
                    f"{name}: {path} {where} the input {found[1]} ({found[0]}) and would replace it; {_REMEDY}"
                )
    filled = _Paths(folders or {})
    if not filled:
        return
    for name, path in _listed(inputs):
        for place in _upwards(path):
            found = filled.find(place)
            if found is not None:
                where = "is" if place == path else "holds"
                raise ValueError(
                    f"{found[0]}: the program writes the folder {found[1]}, which {where} the input {path} ({name}); {_REMEDY}"
                )


def repeated(outputs: Iterable[str | os.PathLike]) -> list[str]:
    """Returns those of the paths to write that an earlier one of them would be replaced by."""
    seen, found = set(), []
    for path in map(os.fspath, outputs):
        key = _folded(_location(path))
        if key in seen:
            found.append(path)
        seen.add(key)
    return found


_REMEDY = "name another place to write to"


class _Paths:
    """Paths that can be found again by any other spelling."""

    def __init__(self, named: Named):
        self._by_name: dict[str, list[tuple[str, str]]] = {}
        self._by_file: dict[tuple[int, int], tuple[str, str]] = {}
        for name, path in _listed(named):
            for key in {_folded(_location(path)), _folded(os.path.realpath(path))}:
                self._by_name.setdefault(key, []).append((name, path))
            if (file := _file(path)) is not None:
                self._by_file.setdefault(file, (name, path))

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def find(self, path: str) -> tuple[str, str] | None:
        file = _file(path)
        if file in self._by_file:
            return self._by_file[file]
        for key in (_folded(_location(path)), _folded(os.path.realpath(path))):
            for name, other in self._by_name.get(key, ()):
                if _may_be_one(path, other):
                    return name, other
        return None


def _may_be_one(path: str, other: str) -> bool:
    """Returns False where the disk itself tells two paths apart that differ in capitals or Unicode
    only.
    """
    if _location(path) == _location(other):
        return True
    for one, two in (
        (path, other),
        (os.path.dirname(_location(path)), os.path.dirname(_location(other))),
    ):
        files = _file(one), _file(two)
        if None not in files:
            return files[0] == files[1]
    return True


def _listed(named: Named) -> list[tuple[str, str]]:
    return [(name, os.fspath(path)) for name, paths in named.items() for path in paths]


def _upwards(path: str) -> Iterator[str]:
    yield path
    place = _location(path)
    while (above := os.path.dirname(place)) != place:
        yield above
        place = above


def _location(path: str) -> str:
    """Returns where the name itself lies, its folder's links followed: what a rename to it would
    replace.
    """
    path = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _file(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
