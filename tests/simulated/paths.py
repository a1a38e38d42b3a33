"""`pathlib` for stories: paths are values, so the same question about one is answered once."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

_MOST = 5000  # paths that are remembered; stories make others all the time

_Own = type(pathlib.Path())
_made: dict[Any, pathlib.Path] = {}


def made(path: Any = ".", *more: Any) -> pathlib.Path:
    """Takes the place of `pathlib.Path`."""
    if more:
        return pathlib.Path(path, *more)
    if type(path) is _Own:
        return path
    found = _made.get(path)
    if found is None:
        if len(_made) >= _MOST:
            _made.clear()
        found = _made[path] = pathlib.Path(path)
    return found


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside the block, a path's parent and what is below it are made once."""
    join, parent = pathlib.PurePath.__truediv__, pathlib.PurePath.parent
    once = functools.lru_cache(maxsize=_MOST, typed=True)  # a path and a pure path may be equal
    pathlib.PurePath.__truediv__ = once(join)  # type: ignore[assignment,method-assign]
    pathlib.PurePath.parent = property(once(parent.__get__))  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        pathlib.PurePath.__truediv__ = join  # type: ignore[method-assign]
        pathlib.PurePath.parent = parent  # type: ignore[method-assign]
        _made.clear()
