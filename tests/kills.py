"""Ends a piece of code before one of its calls that change the disk, as a kill would."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

import pytest

_CALLS = ("replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir", "chmod", "fsync")


class Killed(BaseException):
    """No handler of the product catches it, and what a handler does then has no effect."""


@contextlib.contextmanager
def before_call(number: int) -> Iterator[list[str]]:
    """Raises `Killed` in the block before this call that changes the disk, and before all others.

    Yields the list of the calls so far. Does nothing if the block makes fewer calls.
    """
    made: list[str] = []

    def step(name: str, done: Callable) -> Callable:
        def call(*given, **named):
            if len(made) >= number:
                raise Killed
            made.append(name)
            return done(*given, **named)

        return call

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        for name in _CALLS:
            patch.setattr(os, name, step(name, getattr(os, name)))
        yield made


def folders(root: pathlib.Path, act: Callable[[pathlib.Path], object]) -> Iterator[pathlib.Path]:
    """Yields a new folder for each call, in which `act` was killed before this call.

    The last one is that in which it came to its end.
    """
    for number in range(1000):
        folder, ended = root / f"killed_{number}", False
        with before_call(number):
            act(folder)
            ended = True
        yield folder
        if ended:
            return
    raise AssertionError("it never comes to its end")
