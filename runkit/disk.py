"""What a program says when a disk is full, the same words everywhere."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil

_FULL = tuple(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)
)


def free_bytes(path: str | os.PathLike) -> int:
    """Returns what is free where `path` is, or will be."""
    there = pathlib.Path(path).absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return shutil.disk_usage(there).free


def full_text(error: OSError) -> str | None:
    """Returns a sentence for an error that says that a disk, a quota or a limit (`ulimit -f`) is
    full, with the file and what is free.

    None for any other error, and for one that says itself what is free.
    """
    if error.errno not in _FULL or "are free" in (error.strerror or ""):
        return None
    if error.filename is None:
        return f"a file cannot be written: {os.strerror(error.errno)}"
    name = os.fsdecode(error.filename)
    reason, words = os.strerror(error.errno), error.strerror or ""
    words = words if reason in words else "; ".join(filter(None, (reason, words)))
    return f"{name}: cannot be written ({words}); {free_bytes(name) / 1e6:.1f} MB are free there"
