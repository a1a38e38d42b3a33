"""What the C library does with memory that a long-lived program gives back."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of glibc's <malloc.h>
_LARGE_BYTES = 256 * 2**10
_ARENAS = 2


def return_large_blocks() -> bool:
    """Has large blocks go back to the system as soon as they are free, whichever thread had them. Returns whether the C library can.

    By itself glibc raises the size from which it does so as a program frees large blocks, and keeps them in up to eight arenas a
    core: a server whose threads each hold a megabyte now and then seems to grow with their number.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES) and mallopt(_M_ARENA_MAX, _ARENAS))
