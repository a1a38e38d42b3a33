"""Has the disk begin with what was just written, so that the sync at the end of a large file finds
little left to do.
"""

from __future__ import annotations

import ctypes

_WRITE = 2  # SYNC_FILE_RANGE_WRITE of Linux's <fcntl.h>: begin, do not wait


def _from_the_c_library():
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):  # not Linux
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


_sync_file_range = _from_the_c_library()


def begin(descriptor: int, offset: int, size: int) -> bool:
    """Asks for `size` bytes from `offset` of an open file to be written out soon. Promises nothing:
    that is what fsync is for.

    Returns whether the system took it; it is never an error, for the sync that follows reports what
    is wrong with the disk.
    """
    return _sync_file_range is not None and _sync_file_range(descriptor, offset, size, _WRITE) == 0
