"""Lets the functions of `os`, `open` and their like work on simulated disks.

Every path that is not on one of these disks goes to the system.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import fnmatch
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from runkit import writeback
from tests.simulated.disk import FIRST_DESCRIPTOR, ROOT, Disks
from tests.simulated.disk_streams import Stream, TextStream

_BY_PATH = {
    os: (
        *("lstat", "replace", "rename", "link", "unlink", "remove", "mkdir"),
        *("chmod", "listdir", "scandir", "truncate"),
    ),
    shutil: ("rmtree",),
}
_BY_NUMBER = {  # and how many arguments they take; with a count, they are called with a number only
    os: {"close": 1, "fsync": 1, "fstat": 1, "write": 2, "pread": 3, "pwrite": 3}
    | {"preadv": 0, "ftruncate": 0},
    fcntl: {"flock": 0},
}
_SAME = {"lstat": "stat", "rename": "replace", "remove": "unlink"}


_Path = type(pathlib.Path())


def _place(path: Any) -> Any:
    """Returns a path as the disks take it; whatever else it is, it is returned as it is."""
    if type(path) is _Path:
        try:
            return path._str  # what `str` finds, but only after it has asked for it once
        except AttributeError:
            return str(path)
    return str(path) if isinstance(path, pathlib.PurePath) else path


def _is_inside(place: Any) -> bool:
    """Whether a path or a descriptor is one of the simulated disks."""
    if isinstance(place, str):
        return place.startswith(ROOT)
    return isinstance(place, int) and place >= FIRST_DESCRIPTOR


class Installation:
    """The functions that take the place of the system's; each story has disks of its own.

    Those that are called most often are written out, because a call with any arguments costs several
    times as much.
    """

    disks: Disks

    def __init__(self) -> None:
        self._methods: dict[str, Callable] = {}  # of the disks, by the name of the system's call

    def use(self, disks: Disks) -> None:
        """Lets calls go to these disks from now on."""
        self.disks = disks
        self._methods.update(
            (name, getattr(disks, _SAME.get(name, name)))
            for names in (*_BY_PATH.values(), *_BY_NUMBER.values())
            for name in names
        )

    def functions(self) -> list[tuple[Any, str, Callable]]:
        """Returns (module, name, the function that takes the place of that one)."""
        return [
            (os, "stat", self._stat()),
            (os, "open", self._open()),
            (builtins, "open", self._open_stream(builtins.open)),
            (io, "open", self._open_stream(io.open)),
            *(
                (m, name, (self._of_one, self._of_two, self._of_three)[count - 1](m, name))
                if count
                else (m, name, self._of_number(m, name))
                for m, names in _BY_NUMBER.items()
                for name, count in names.items()
            ),
            *((m, name, self._of_path(m, name)) for m, names in _BY_PATH.items() for name in names),
            (pathlib.Path, "exists", self._exists()),
            (pathlib.Path, "is_dir", self._is_dir()),
            (pathlib.Path, "glob", self._glob()),
            (pathlib.Path, "unlink", self._unlink()),
            (writeback, "begin", self._begin()),
            (shutil, "copyfile", self._copyfile()),
            (tempfile, "mkstemp", self._mkstemp()),
        ]

    def _stat(self) -> Callable:
        original, installation = os.stat, self

        def call(path: Any, *, dir_fd: Any = None, follow_symlinks: bool = True) -> Any:
            place = path if type(path) is str else _place(path)
            node = installation.disks._found.get(place)
            if node is not None:
                return node.status()
            if _is_inside(place):
                return installation.disks.stat(place)
            return original(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

        return call

    def _exists(self) -> Callable:
        original, installation = pathlib.Path.exists, self

        def call(path: pathlib.Path, **named: Any) -> bool:
            place = _place(path)
            if place.startswith(ROOT):
                return installation.disks.there(place) is not None
            return original(path, **named)

        return call

    def _is_dir(self) -> Callable:
        original, installation = pathlib.Path.is_dir, self

        def call(path: pathlib.Path, **named: Any) -> bool:
            place = _place(path)
            if place.startswith(ROOT):
                node = installation.disks.there(place)
                return node is not None and node.entries is not None
            return original(path, **named)

        return call

    def _glob(self) -> Callable:
        original, installation = pathlib.Path.glob, self

        def call(path: pathlib.Path, pattern: str, **named: Any) -> Iterator[pathlib.Path]:
            place = _place(path)
            if not place.startswith(ROOT) or "/" in pattern or "**" in pattern:
                return original(path, pattern, **named)
            node = installation.disks.there(place)
            names = fnmatch.filter(node.entries or () if node else (), pattern)
            return iter([path / name for name in names])

        return call

    def _unlink(self) -> Callable:
        original, installation = pathlib.Path.unlink, self

        def call(path: pathlib.Path, missing_ok: bool = False) -> None:
            place = _place(path)
            if not place.startswith(ROOT):
                return original(path, missing_ok=missing_ok)
            return installation.disks.unlink(place, missing_ok=missing_ok)

        return call

    def _open(self) -> Callable:
        original, installation = os.open, self

        def call(path: Any, flags: int, mode: int = 0o777, *, dir_fd: Any = None) -> int:
            place = path if type(path) is str else _place(path)
            if type(place) is str and place.startswith(ROOT):
                return installation.disks.open(place, flags)
            return original(path, flags, mode, dir_fd=dir_fd)

        return call

    def _open_stream(self, original: Callable) -> Callable:
        installation = self

        def call(file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
            place = file if type(file) is str else _place(file)
            if type(place) is str and place.startswith(ROOT):
                opener, errors = named.get("opener"), named.get("errors")
                if len(given) > 2:
                    errors = given[2]
                return installation.disks.open_stream(place, mode, opener, errors)
            return original(file, mode, *given, **named)

        return call

    def _of_path(self, module: Any, name: str) -> Callable:
        original, methods = getattr(module, name), self._methods

        def call(path: Any = ".", *given: Any, **named: Any) -> Any:
            place = path if type(path) is str else _place(path)
            if _is_inside(place):
                if given:  # the second path of a rename or a link
                    given = tuple(map(_place, given))
                return methods[name](place, *given, **named)
            return original(path, *given, **named)

        return call

    def _of_number(self, module: Any, name: str) -> Callable:
        original, methods = getattr(module, name), self._methods

        def call(number: Any, *given: Any) -> Any:
            if type(number) is not int and isinstance(number, (Stream, TextStream)):
                number = number.fileno()
            if type(number) is int and number >= FIRST_DESCRIPTOR:
                return methods[name](number, *given)
            return original(number, *given)

        return call

    def _of_one(self, module: Any, name: str) -> Callable:
        original, methods = getattr(module, name), self._methods

        def call(number: Any) -> Any:
            if type(number) is int and number >= FIRST_DESCRIPTOR:
                return methods[name](number)
            return original(number)

        return call

    def _of_two(self, module: Any, name: str) -> Callable:
        original, methods = getattr(module, name), self._methods

        def call(number: Any, second: Any) -> Any:
            if type(number) is int and number >= FIRST_DESCRIPTOR:
                return methods[name](number, second)
            return original(number, second)

        return call

    def _of_three(self, module: Any, name: str) -> Callable:
        original, methods = getattr(module, name), self._methods

        def call(number: Any, second: Any, third: Any) -> Any:
            if type(number) is int and number >= FIRST_DESCRIPTOR:
                return methods[name](number, second, third)
            return original(number, second, third)

        return call

    def _begin(self) -> Callable:
        original = writeback.begin

        def call(number: int, *given: Any) -> Any:
            return True if number >= FIRST_DESCRIPTOR else original(number, *given)

        return call

    def _copyfile(self) -> Callable:
        original, installation = shutil.copyfile, self

        def call(source: Any, target: Any, **named: Any) -> Any:
            # The initial model may come from outside.
            inside = os.fspath(target).startswith(ROOT)
            return (installation.disks.copyfile if inside else original)(source, target, **named)

        return call

    def _mkstemp(self) -> Callable:
        original, installation = tempfile.mkstemp, self

        def call(*given: Any, **named: Any) -> Any:
            inside = os.fspath(named.get("dir") or "").startswith(ROOT)
            return (installation.disks.mkstemp if inside else original)(*given, **named)

        return call


@contextlib.contextmanager
def installed() -> Iterator[Installation]:
    """Lets the product work on simulated disks inside the block."""
    installation = Installation()
    replaced = installation.functions()
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    try:
        for module, name, function in replaced:
            setattr(module, name, function)
        yield installation
    finally:
        for module, name, function in before:
            setattr(module, name, function)
