"""Lets several processes share the trainings of one search: each claims what it is going to train.

A claim is a lock on a folder of its own. It ends with its process, so the training of a process
that was killed is free again. Claims are made and ended, and files that all processes replace are
written, while `SharedWork.alone` keeps the other processes out.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

from runkit import folder_lock, private

_FOLDER = "claims"


class Claim:
    """A claimed training. A context manager, which gives the claim up on exit."""

    def __init__(self, folder: pathlib.Path, lock: folder_lock.Lock):
        self._folder, self._lock = folder, lock

    def done(self) -> None:
        """Ends the claim of a training whose result has been written."""
        self._lock.close()
        with contextlib.suppress(OSError):  # on some network drives the lock is a file in it
            self._folder.rmdir()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


class SharedWork:
    """The claims of a search.

    Args:
      folder: folder of the search; the claims are in a folder within it.
    """

    def __init__(self, folder: str | os.PathLike):
        self._claims = pathlib.Path(folder) / _FOLDER

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no other process is in this block, and keeps them out until it ends."""
        with folder_lock.hold(private.make(self._claims), wait=True):
            yield

    def claim(self, name: str) -> Claim | None:
        """Claims a training; None if another process has claimed it. Call it within `alone`."""
        folder = private.make(self._claims / name)
        try:
            return Claim(folder, folder_lock.hold(folder))
        except folder_lock.FolderInUse:
            return None
