"""Makes one read of a file fail as a disk does: with an error that names no file."""

from __future__ import annotations

import errno
import pathlib
from collections.abc import Callable

import pytest


def check_named(act: Callable[[], object], folder: pathlib.Path) -> int:
    """Calls `act` again and again, with one of its reads failing each time, until none is left.

    Returns the number of its reads. Raises AssertionError if an error does not name a path in
    `folder`, and whatever else `act` raises.
    """
    for number in range(1000):
        left = [number]

        def failing(read, left=left):
            def call(path, *given, **named):
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(errno.EIO, "Input/output error")
                return read(path, *given, **named)

            return call

        with pytest.MonkeyPatch.context() as disk:
            for name in ("read_bytes", "read_text"):
                disk.setattr(pathlib.Path, name, failing(getattr(pathlib.Path, name)))
            try:
                act()
            except OSError as error:
                assert str(folder) in str(error.filename), error
            except ValueError as error:
                assert str(folder) in str(error), error
        if left[0] >= 0:
            return number
    raise AssertionError("it never comes to its end")
