"""Settings of the C library's malloc for long-lived programs."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's <malloc.h>
_ARENAS = 2
_LARGEST_KEPT, _MOST_KEPT = 4 * 2**20, 8 * 2**20  # bytes; a chunk of a model takes 1 MiB


def share_arenas() -> bool:
    """Makes all threads started from now on share two memory pools (glibc's arenas).

    By default glibc gives up to eight threads per core their own pool, and each pool keeps the
    memory that its threads free: a server whose threads briefly hold a megabyte each appears to
    grow with the number of threads.

    Returns:
      Whether the C library supports it.
    """
    return _set(_M_ARENA_MAX, _ARENAS)


def keep_buffers() -> bool:
    """Keeps freed buffers of up to 4 MiB for reuse, 8 MiB in total.

    By default glibc returns a buffer of 1 MiB to the system and requests it again page by page; a
    program that moves a model in such chunks spends a sixth of its time on that. Larger buffers,
    and free memory beyond 8 MiB, still go back to the system.

    Returns:
      Whether the C library supports it.
    """
    return _set(_M_MMAP_THRESHOLD, _LARGEST_KEPT) and _set(_M_TRIM_THRESHOLD, _MOST_KEPT)


def _set(parameter: int, value: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(parameter, value))
