"""A queue in which transfers wait for slots.

Only a few transfers move bytes at once, so that memory does not grow with the number of sites, and
no site holds more than one slot.
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
    """Hands out `count` slots. Thread-safe.

    The next slot goes to the name whose last slot was longest ago or, in a tie, to the first to
    ask. Each name holds one slot at a time, so calls that hold a slot and move nothing delay only
    further calls of the same name.

    A slow link does not starve others: a slot lapses when its transfer moves fewer than PACE_BYTES
    in `lapse_s` seconds, and the transfer continues without it. So does a transfer that has waited
    for `patience_s`.

    Args:
      count: number of slots.
      lapse_s: how long a slot lasts from its start, and again from every PACE_BYTES.
      patience_s: how long a transfer waits for a slot. It must be far below the time after which
          the other end gives up an idle call.
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
            raise ValueError(f"{count} slots; expected at least 1")
        self._count, self._lapse_s = count, lapse_s
        self._patience_s, self._clock = patience_s, clock
        self._changed = threading.Condition()
        self._queue, self._held = collections.deque[Slot](), set[Slot]()
        self._reserved: dict[str | None, Slot] = {}
        # name -> number of its last slot; slots are numbered from 1
        self._served, self._serving = dict[str | None, int](), itertools.count(1)

    @contextlib.contextmanager
    def slot(
        self, wanted: Callable[[], bool] = lambda: True, *, name: str | None = None
    ) -> Iterator[Slot]:
        """Waits for a slot and holds it for the block.

        A block that waits too long runs without a slot.

        Args:
          name: holder of the slot. A slot reserved under this name is used at once.
          wanted: called at the start and at every `wake`; once it returns False, the wait ends.
        """
        with self._changed:
            slot = self._reserved.pop(name, None) or self._queued(wanted, name)
        try:
            yield slot
        finally:
            with self._changed:
                self._held.discard(slot)
                self._changed.notify_all()

    def reserve(self, name: str, wanted: Callable[[], bool] = lambda: True) -> None:
        """Waits for a slot, which the next `slot` of that name uses.

        If no such call follows, the slot lapses like any other.
        """
        with self._changed:
            earlier = self._reserved.pop(name, None)
            if earlier is not None:
                self._held.discard(earlier)
            self._reserved[name] = self._queued(wanted, name)

    def _queued(self, wanted: Callable[[], bool], name: str | None) -> Slot:
        """Returns a slot once it is free or the wait is over; called with the lock held."""
        slot, now = Slot(self._clock, self._lapse_s, name), self._clock()
        until = now + self._patience_s
        self._queue.append(slot)
        try:
            while wanted() and now < until:
                self._held = {held for held in self._held if held.ends > now}
                if len(self._held) < self._count and self._next() is slot:
                    self._held.add(slot)
                    if name is not None:
                        self._served[name] = next(self._serving)
                    break
                self._changed.wait(min([until, *(held.ends for held in self._held)]) - now)
                now = self._clock()
        finally:
            self._queue.remove(slot)
            self._changed.notify_all()  # the next in line may now be first
        slot.begin()
        return slot

    def _next(self) -> Slot | None:
        """Returns the slot to hand out next.

        A name that holds one waits; among the others, the one served longest ago goes first.
        """
        busy = {held.name for held in self._held} - {None}
        waiting = (slot for slot in self._queue if slot.name not in busy)
        # In a tie, `min` takes the first in the queue.
        return min(waiting, key=lambda slot: self._served.get(slot.name, 0), default=None)

    def load(self) -> tuple[int, int]:
        """Returns (transfers that hold a slot, transfers that wait for one)."""
        with self._changed:
            now = self._clock()
            return sum(held.ends > now for held in self._held), len(self._queue)

    def wake(self) -> None:
        """Makes every waiting call check the clock, and whether it still wants a slot."""
        with self._changed:
            self._changed.notify_all()


class Slot:
    """One transfer's slot; `ends` is extended as its bytes move."""

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
