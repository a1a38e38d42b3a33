"""Files that need no second check: this process verified them when it wrote them a moment ago.

The server verifies an update when it arrives and reads it again seconds later to aggregate it. With
a second SHA-256, a round without training would take at least a tenth longer
(`tests/benchmarks/federated_rounds.py`).
"""

from __future__ import annotations

import os
import pathlib
import sys
import time
from collections.abc import Callable

_FOR_S = 60.0
_COARSE_CLOCK = 5  # CLOCK_REALTIME_COARSE of Linux's <time.h>, the clock of file time stamps
_TICK_NS = round(time.clock_getres(_COARSE_CLOCK) * 1e9) if sys.platform == "linux" else 20_000_000
_SECOND_NS = 1_000_000_000


class RecentlyVerified:
    """Files that were verified in the last minute and have not changed since.

    For a minute a file is still in memory. Later it may be read back from a disk that has corrupted
    it, which time stamps do not show. Not thread-safe.

    Args:
      clock: returns seconds since any fixed moment.
      now_ns: returns nanoseconds since the epoch, from the clock of file time stamps.
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
        """Records a file whose content has been verified and whose name is final.

        A file is left out if a change might not alter its time stamp: if it was written within the
        clock's tick, or is on a disk with time stamps of whole seconds. A file that cannot be
        examined is left out as well; its reader will report why.
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
        """Forgets every file, so that all are verified again."""
        self._noted = {}

    def holds(self, path: pathlib.Path) -> bool:
        """Returns whether the file has not changed since it was recorded."""
        mark, since = self._noted.get(path, (None, 0.0))
        if mark is None or self._clock() - since > _FOR_S:
            return False
        try:
            return _mark(os.stat(path)) == mark
        except OSError:
            return False


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
