"""What the C library does with memory that a long-lived program gives back."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # of glibc's <malloc.h>
_ARENAS = 2


def share_arenas() -> bool:
    """Has all threads that start from here on share two pools of freed memory. Returns whether the C library can.

    By itself glibc gives up to eight threads a core a pool of their own, each of which keeps what its threads let go: a server whose
    threads hold a megabyte now and then seems to grow with their number.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_M_ARENA_MAX, _ARENAS))
