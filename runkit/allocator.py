"""What the C library does with memory that a long-lived program gives back."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's <malloc.h>
_ARENAS = 2
_LARGEST_KEPT, _MOST_KEPT = 4 * 2**20, 8 * 2**20  # bytes; a chunk of a model is one MiB


def share_arenas() -> bool:
    """Has all threads that start from here on share two pools of freed memory. Returns whether the
    C library can.

    By itself glibc gives up to eight threads a core a pool of their own, each of which keeps what
    its threads let go: a server whose threads hold a megabyte now and then seems to grow with their
    number.
    """
    return _set(_M_ARENA_MAX, _ARENAS)


def keep_buffers() -> bool:
    """Has freed buffers of up to four megabytes be used again, eight megabytes of them at most.
    Returns whether the C library can.

    By itself glibc gives a buffer of a megabyte back to the system and asks for it anew, page by
    page: a program that moves a model in such chunks spends a sixth of its time on that. Larger
    ones, and what is free beyond the eight megabytes, still go back.
    """
    return _set(_M_MMAP_THRESHOLD, _LARGEST_KEPT) and _set(_M_TRIM_THRESHOLD, _MOST_KEPT)


def _set(parameter: int, value: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(parameter, value))
