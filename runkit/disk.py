"""Free space, and a uniform wording for errors about a full disk."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil

# disk, quota, and the limit on a file's size (`ulimit -f`)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(path: str | os.PathLike) -> int:
    """Returns the free bytes on the disk where `path` is, or will be."""
    place = pathlib.Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def full_text(error: OSError) -> str | None:
    """Returns a sentence about a full disk, quota or limit: the file and the free space.

    Returns None for any other error, and for one that states the free space itself.
    """
    if error.errno is None or error.errno not in FULL or "are free" in (error.strerror or ""):
        return None
    if error.filename is None:
        return f"a file cannot be written: {os.strerror(error.errno)}"
    name = os.fsdecode(error.filename)
    reason, words = os.strerror(error.errno), error.strerror or ""
    words = words if reason in words else "; ".join(filter(None, (reason, words)))
    return f"{name}: cannot be written ({words}); {free_bytes(name) / 1e6:.1f} MB are free there"
