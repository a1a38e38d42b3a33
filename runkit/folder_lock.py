"""Locks a folder for one process; a second process is refused and told which one holds the lock.

The lock ends with its process, even if the process is killed. It is on the folder itself (flock),
so it needs no write permission there and leaves no file behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import re

from absl import logging

from runkit import printable, private

_HELD = re.compile(  # a line of /proc/locks
    r"FLOCK\s+\S+\s+\S+\s+(?P<process>\d+)\s+"
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+)\s"
)
_FILE = ".lock"  # used where the file system cannot lock folders, e.g. NFS


class FolderInUse(ValueError):
    """Another process is using the folder; the message names it."""


class Lock:
    """A lock on a folder, held until `close` or the end of the process."""

    def __init__(self, descriptor: int | None):
        self._descriptor = descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(folder: str | os.PathLike, *, shared: bool = False, wait: bool = False) -> Lock:
    """Locks an existing folder for this process.

    Args:
      shared: lets others hold a shared lock at the same time, e.g. to read.
      wait: waits for a folder that is in use. Only for locks that are never held for long.
    Raises:
      FolderInUse: naming the process that holds it, unless `wait`.
      FileNotFoundError, NotADirectoryError: if there is no such folder.
    """
    folder, how = pathlib.Path(folder), fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not wait:
        how |= fcntl.LOCK_NB
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        return Lock(descriptor)
    except OSError as error:
        process = holder(descriptor) if error.errno == errno.EWOULDBLOCK else ""
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise _in_use(folder, process) from None
    return _hold_file(folder, how)


def _hold_file(folder: pathlib.Path, how: int) -> Lock:
    try:
        descriptor = private.opener(folder / _FILE, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        return _unlocked(folder, error)
    try:
        fcntl.flock(descriptor, how)
        return Lock(descriptor)
    except OSError as error:
        process = holder(descriptor)
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise _in_use(folder, process) from None
        return _unlocked(folder, error)


def _unlocked(folder: pathlib.Path, error: OSError) -> Lock:
    logging.warning(
        "event=not_locked folder=%s note=see_that_no_other_process_works_there reason=%s",
        folder,
        error.strerror,
    )
    return Lock(None)


def _in_use(folder: pathlib.Path, process: str) -> FolderInUse:
    process = process or "another process, perhaps on another machine or in a container"
    return FolderInUse(f"{folder} is in use by {process}; wait until it ends, or stop it")


def holder(descriptor: int) -> str:
    """Returns the holder of a lock on an open file, e.g. "process 1234 (experiments.join)".

    Returns "" if the system does not say.
    """
    about = os.fstat(descriptor)
    try:
        with open("/proc/locks", encoding="ascii") as stream:
            held = [
                found
                for found in map(_HELD.search, stream)
                if found and int(found["inode"]) == about.st_ino
            ]
    except OSError:
        return ""
    device = (os.major(about.st_dev), os.minor(about.st_dev))
    exact = [
        found for found in held if (int(found["major"], 16), int(found["minor"], 16)) == device
    ]
    for found in exact or held:  # some file systems report another device number to programs
        if int(found["process"]) > 0:
            return f"process {found['process']}{_program(found['process'])}"
    return ""


def _program(process: str) -> str:
    try:
        words = (
            pathlib.Path("/proc", process, "cmdline")
            .read_bytes()
            .decode("utf-8", "replace")
            .split("\0")
        )
    except OSError:
        return ""
    name = words[words.index("-m") + 1] if "-m" in words[:-1] else os.path.basename(words[0])
    return f" ({printable.text(name, limit=60)})" if name else ""
