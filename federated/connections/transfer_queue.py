"""Transfers take turns: only a few move bytes at once, so that memory does not grow with the number
of sites, and no site holds more than one turn.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

PACE_BYTES = 32 * 2**20  # in `lapse_s` seconds; at the default 5 s about 54 Mbit/s


class TransferQueue:
    """Hands out `count` turns. The next one goes to the name whose last turn is longest ago, or, if
    that does not decide, to the first to ask.

    Thread-safe. Each name holds one turn at a time, so calls that hold a turn and move nothing
    delay only further calls of the same name.

    A slow link starves no other: a turn lapses when its transfer moves fewer than PACE_BYTES in
    `lapse_s` seconds, and the transfer goes on without it. So does a transfer that has waited for
    `patience_s`.

    Args:
      count: turns at once.
      lapse_s: how long a turn lasts from its start, and again from every PACE_BYTES.
      patience_s: how long a transfer waits for a turn. Must be far below the time after which the
          other end gives up a call that stands still.
      clock: seconds.
    """

    def __init__(
        self,
        count: int,
        *,
        lapse_s: float = 5.0,
        patience_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        if count < 1:
            raise ValueError(f"{count} turns; expected at least 1")
        self._count, self._lapse_s = count, lapse_s
        self._patience_s, self._clock = patience_s, clock
        self._changed = threading.Condition()
        self._queue, self._held = collections.deque[Slot](), set[Slot]()
        self._reserved: dict[str | None, Slot] = {}
        # name -> number of its last turn; turns are numbered from 1
        self._served, self._serving = dict[str | None, int](), itertools.count(1)

    @contextlib.contextmanager
    def turn(
        self, wanted: Callable[[], bool] = lambda: True, *, name: str | None = None
    ) -> Iterator[Slot]:
        """Waits for a turn and holds it for the block. A block that waits too long runs without a
        turn.

        Args:
          name: whose turn it is. A turn reserved under this name is used at once.
          wanted: called at the start and at every `wake`; once it returns False, the wait ends.
        """
        with self._changed:
            turn = self._reserved.pop(name, None) or self._queued(wanted, name)
        try:
            yield turn
        finally:
            self._end(turn)

    def reserve(self, name: str, wanted: Callable[[], bool] = lambda: True) -> None:
        """Waits for a turn, which the next `turn` of that name uses. If none comes, it lapses like
        any other.
        """
        with self._changed:
            earlier = self._reserved.pop(name, None)
            if earlier is not None:
                self._held.discard(earlier)
            self._reserved[name] = self._queued(wanted, name)

    def _end(self, turn: Slot) -> None:
        with self._changed:
            self._held.discard(turn)
            self._changed.notify_all()

    def _queued(self, wanted: Callable[[], bool], name: str | None) -> Slot:
        """Returns a turn once it is free or the wait is over; called with the lock held."""
        turn, now = Slot(self._clock, self._lapse_s, name), self._clock()
        until = now + self._patience_s
        self._queue.append(turn)
        try:
            while wanted() and now < until:
                self._held = {held for held in self._held if held.ends > now}
                if len(self._held) < self._count and self._next() is turn:
                    self._held.add(turn)
                    if name is not None:
                        self._served[name] = next(self._serving)
                    break
                self._changed.wait(min([until, *(held.ends for held in self._held)]) - now)
                now = self._clock()
        finally:
            self._queue.remove(turn)
            self._changed.notify_all()  # the next one may be the first now
        turn.begin()
        return turn

    def _next(self) -> Slot | None:
        """Returns whose turn is next. A name that holds one waits; among the others, the one that
        was not served for longest goes first.
        """
        busy = {held.name for held in self._held} - {None}
        waiting = (turn for turn in self._queue if turn.name not in busy)
        # Of equal ones `min` takes the first in the queue.
        return min(waiting, key=lambda turn: self._served.get(turn.name, 0), default=None)

    def wake(self) -> None:
        """Makes every waiting call check again whether it still wants a turn, and the clock."""
        with self._changed:
            self._changed.notify_all()


class Slot:
    """One transfer's turn; `ends` moves on with its bytes."""

    def __init__(self, clock: Callable[[], float], lapse_s: float, name: str | None = None):
        self.name = name
        self._clock, self._lapse_s, self._moved = clock, lapse_s, 0
        self.ends = 0.0

    def begin(self) -> None:
        self.ends = self._clock() + self._lapse_s

    def moved(self, nbytes: int) -> None:
        """Reports that the transfer moved `nbytes` more bytes."""
        self._moved += nbytes
        if self._moved >= PACE_BYTES:
            self._moved = 0
            self.begin()
