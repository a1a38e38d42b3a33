"""Work that would be done after every score, if it did not take longer than some scores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

What = TypeVar("What")

PAGE_EVERY_S = 60.0  # a page takes a second, a path on few cases not much longer


class Occasional(Generic[What]):
    """Does its work when it is called, but not again before some seconds have passed.

    Args:
      work: what to do.
      every_s: least seconds between two times.
      clock: returns seconds; a parameter so that tests can set the time.
    """

    def __init__(
        self,
        work: Callable[[What], None],
        *,
        every_s: float = PAGE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._work, self._every_s, self._clock, self._last = work, every_s, clock, -math.inf

    def __call__(self, what: What) -> None:
        if self._clock() - self._last >= self._every_s:
            self._work(what)
            self._last = self._clock()
