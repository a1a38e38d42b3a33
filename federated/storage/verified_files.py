"""Files that this process verified as it wrote them and that nobody has touched since: they need no
second check.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time
from collections.abc import Callable

_FOR_S = 60.0
_COARSE_CLOCK = 5  # CLOCK_REALTIME_COARSE of Linux's <time.h>, which files are stamped with
_TICK_NS = round(time.clock_getres(_COARSE_CLOCK) * 1e9) if sys.platform == "linux" else 20_000_000
_SECOND_NS = 1_000_000_000


class VerifiedFiles:
    """Files that were noted moments ago and that nobody has touched since.

    For a minute only: until then a file lies in memory; later it may come back from a disk that has
    corrupted it, which no stamp shows. Not thread-safe.

    Args:
      clock: seconds; of `now_ns` nanoseconds since the epoch, as files are stamped.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ):
        self._clock, self._now_ns = clock, now_ns
        self._noted: dict[pathlib.Path, tuple[tuple[int, ...], float]] = {}

    def note(self, path: pathlib.Path) -> None:
        """Notes a file whose content has been checked and whose name is final.

        Left out is one whose stamp a change would perhaps not alter: written within the tick, or on
        a disk that stamps whole seconds. So is one that cannot be looked at: whoever reads it will
        say why.
        """
        now = self._clock()
        self._noted = {
            other: (mark, since)
            for other, (mark, since) in self._noted.items()
            if now - since <= _FOR_S
        }
        try:
            status = os.stat(path)
        except OSError:
            return
        if self._now_ns() - status.st_mtime_ns >= _TICK_NS and status.st_mtime_ns % _SECOND_NS:
            self._noted[path] = (_mark(status), now)

    def forget(self) -> None:
        """Forgets every file: they are to be checked again."""
        self._noted = {}

    def holds(self, path: pathlib.Path) -> bool:
        """Returns whether the file is still as it was noted."""
        mark, since = self._noted.get(path, (None, 0.0))
        if mark is None or self._clock() - since > _FOR_S:
            return False
        try:
            return _mark(os.stat(path)) == mark
        except OSError:
            return False


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
