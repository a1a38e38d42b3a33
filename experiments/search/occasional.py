"""Work that is too slow to do after every score, so that some calls are skipped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

What = TypeVar("What")

PAGE_EVERY_S = 60.0  # a page takes a second; scoring a path on few cases is not much slower


class Occasional(Generic[What]):
    """Runs `work` when called, unless it last ran less than `every_s` seconds ago.

    Args:
      work: the function to call.
      every_s: least number of seconds between two runs.
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
