"""`pathlib` for stories: paths are values, so the same question about one is answered once."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

_MOST = 5000  # paths that are remembered; stories make others all the time

_Own = type(pathlib.Path())
_made: dict[Any, pathlib.Path] = {}
_parents: dict[pathlib.Path, pathlib.Path] = {}
_joined: dict[tuple[pathlib.Path, str], pathlib.Path] = {}


def made(path: Any = ".", *more: Any) -> pathlib.Path:
    """Takes the place of `pathlib.Path`."""
    if more:
        return pathlib.Path(path, *more)
    if type(path) is _Own:
        return path
    found = _made.get(path)
    if found is None:
        found = _keep(_made, path, pathlib.Path(path))
    return found


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside the block, a path's parent and what is below it are made once."""
    join, parent = pathlib.PurePath.__truediv__, pathlib.PurePath.parent

    def joined(self: Any, name: Any) -> Any:
        if type(name) is not str or type(self) is not _Own:
            return join(self, name)
        found = _joined.get((self, name))
        if found is None:
            found = _keep(_joined, (self, name), join(self, name))
        return found

    def parent_of(self: Any) -> Any:
        found = _parents.get(self)
        if found is None:
            found = parent.__get__(self)
            if type(self) is _Own:
                _keep(_parents, self, found)
        return found

    pathlib.PurePath.__truediv__ = joined  # type: ignore[method-assign]
    pathlib.PurePath.parent = property(parent_of)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        pathlib.PurePath.__truediv__ = join  # type: ignore[method-assign]
        pathlib.PurePath.parent = parent  # type: ignore[method-assign]
        for table in (_made, _parents, _joined):
            table.clear()


def _keep(table: dict[Any, pathlib.Path], key: Any, path: pathlib.Path) -> pathlib.Path:
    if len(table) >= _MOST:
        table.clear()
    table[key] = path
    return path
