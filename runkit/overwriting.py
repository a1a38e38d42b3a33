"""Checks that a program's outputs would not overwrite its inputs, and keeps what users edit."""

from __future__ import annotations

import itertools
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from runkit import atomic

Named = Mapping[str, Iterable[str | os.PathLike]]


def require_apart(inputs: Named, outputs: Named, *, folders: Named | None = None) -> None:
    """Raises ValueError if writing `outputs` would replace or change an input.

    Call it before anything is written. Paths that are spelled differently, contain links, or differ
    only in capitals or Unicode form (which some disks do not distinguish) can be the same file.

    Args:
      inputs: files and folders by the name that the user knows, e.g. "--image". No output may lie
          in an input folder.
      outputs: files to write.
      folders: folders that the program fills, clears or recreates: no input may lie in them.
    Raises:
      ValueError: naming the output, the input, and the user's names for them.
    """
    known = _Paths(inputs)
    for name, path in _listed(outputs) + _listed(folders or {}):
        for place in _upwards(path):
            found = known.find(place)
            if found is not None:
                where = "is" if place == path else "lies in"
                raise ValueError(
                    f"{name}: {path} {where} the input {found[1]} ({found[0]}) "
                    f"and would replace it; {_REMEDY}"
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
                    f"{found[0]}: the program writes the folder {found[1]}, "
                    f"which {where} the input {path} ({name}); {_REMEDY}"
                )


def repeated(outputs: Iterable[str | os.PathLike]) -> list[str]:
    """Returns the paths that would overwrite an earlier path of `outputs`."""
    seen, found = set(), []
    for path in (os.fspath(output) for output in outputs):
        key = _folded(_location(path))
        if key in seen:
            found.append(path)
        seen.add(key)
    return found


def keep_copy(path: str | os.PathLike) -> pathlib.Path:
    """Copies a file that is about to be replaced to `<name>.1`, or the first number that is free.

    Returns the copy.
    """
    path = pathlib.Path(path)
    copies = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    copy = next(place for place in copies if not os.path.lexists(place))
    atomic.write_bytes(copy, atomic.read_bytes(path))
    return copy


_REMEDY = "choose another place to write to"


class _Paths:
    """Paths that can be looked up under any other spelling."""

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
    """Returns False if the disk distinguishes two paths that differ only in capitals or Unicode."""
    if _location(path) == _location(other):
        return True
    folders = os.path.dirname(_location(path)), os.path.dirname(_location(other))
    for one, two in ((path, other), folders):
        first, second = _file(one), _file(two)
        if first is not None and second is not None:
            return first == second
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
    """Returns the path that a rename would replace: links of its folder followed, its own not."""
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
