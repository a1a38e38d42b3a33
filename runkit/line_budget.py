"""A rate limit on log lines, so that a peer that repeats itself cannot fill the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

_MAX_KINDS = 10_000  # kinds contain text from a peer; beyond this number, new ones share one


class LineBudget:
    """Allows `burst` lines of each kind at once, then one more every `every_s` seconds.

    A token bucket per kind. Thread-safe.

    Args:
      clock: returns seconds since any fixed moment.
    """

    def __init__(
        self,
        *,
        burst: int = 100,
        every_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._burst, self._every_s, self._clock = burst, every_s, clock
        self._lock, self._kinds = threading.Lock(), dict[Hashable, tuple[float, float, int]]()

    def take(self, kind: Hashable) -> int | None:
        """Returns how many earlier lines of this kind were omitted; None to omit this one too."""
        now = self._clock()
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
                kind = None
            left, since, omitted = self._kinds.get(kind, (float(self._burst), now, 0))
            left = min(self._burst, left + (now - since) / self._every_s)
            if left < 1:
                self._kinds[kind] = (left, now, omitted + 1)
                return None
            self._kinds[kind] = (left - 1, now, 0)
            return omitted
