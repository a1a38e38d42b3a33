"""Files that can be read to their end, as opposed to pipes and devices."""

from __future__ import annotations

import errno
import os
import stat


def require(path: str | os.PathLike) -> None:
    """Raises OSError if a path is a pipe, a socket or a device, for which a reader may wait without end, or cannot be looked at."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", os.fspath(path))
