"""Starts writing a file's new data to disk early, so that the final sync has little left to do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_WRITE = 2  # SYNC_FILE_RANGE_WRITE of Linux's <fcntl.h>: start, do not wait


def _load() -> Callable[[int, int, int, int], int] | None:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):  # not Linux
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


_sync_file_range = _load()


def begin(descriptor: int, offset: int, size: int) -> bool:
    """Asks the system to start writing `size` bytes from `offset` of an open file to disk.

    A hint without a guarantee, which only fsync gives; the fsync that follows also reports errors.

    Returns:
      Whether the system accepted the request.
    """
    return _sync_file_range is not None and _sync_file_range(descriptor, offset, size, _WRITE) == 0
