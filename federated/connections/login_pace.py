"""Limits how often a site may log in: several times in a row after restarts, then steadily."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from federated.errors import TooManyCalls

# Logins in a row, e.g. of a site that is restarted repeatedly while it is being set up.
AT_ONCE = 20
EVERY_S = 1.0  # time between logins after that
_LONGEST_WAIT_S = 10.0


class LoginPace:
    """Schedules when each site may log in next. Thread-safe.

    A login costs the server a handshake and the comparison of two plans. A site that keeps logging
    in waits here, in its own call, and does not delay the rounds of the others.

    Args:
      clock: seconds since any fixed moment.
    """

    def __init__(
        self,
        at_once: int = AT_ONCE,
        every_s: float = EVERY_S,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._ahead_s, self._every_s, self._clock = at_once * every_s, every_s, clock
        self._lock, self._free_at = threading.Lock(), dict[str, float]()

    def reserve(self, site: str) -> float:
        """Returns how many seconds the next login of `site` has to wait.

        Raises:
          TooManyCalls: if it would have to wait for more than ten seconds behind earlier ones.
        """
        with self._lock:
            now = self._clock()
            free_at = max(self._free_at.get(site, 0.0), now - self._ahead_s) + self._every_s
            if free_at - now > _LONGEST_WAIT_S:
                raise TooManyCalls(
                    f"{site!r} logs in too often; one login every {self._every_s:g} s is allowed, "
                    "so wait and try again"
                )
            self._free_at[site] = free_at
            return max(0.0, free_at - now)
