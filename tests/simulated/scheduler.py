"""Virtual time, and programs written as blocking code that run one at a time.

A site's loop blocks in the middle of its own code, so it needs a stack of its own: a thread (the
standard library has nothing lighter, and rewriting the loop as a generator would test other code
than the one that hospitals run). Exactly one thread runs at any moment, chosen by the time of the
next event, so a seed always gives the same run. Threads are used again for later programs.
"""

from __future__ import annotations

import functools
import heapq
import threading
from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """A program ends here without another effect on its disk, as by SIGKILL."""


class Scheduler:
    """Runs events in the order of their time, in the thread that calls `run`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0  # of the last event that was added
        self.steps = 0

    def at(self, time: float, event: Callable[[], None]) -> None:
        if time < self.now:
            time = self.now
        self._number = number = self._number + 1
        heapq.heappush(self._events, (time, number, event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now + seconds, event)

    def run(self, until: float, over: Callable[[], bool] = lambda: False) -> None:
        """Runs events up to a time, or until `over`. May be called again inside an event."""
        events = self._events
        while events and events[0][0] <= until and not over():
            time, _, event = heapq.heappop(events)
            if time > self.now:
                self.now = time
            self.steps += 1
            event()
        if not over():
            self.now = max(self.now, until)

    @property
    def next_time(self) -> float | None:
        return self._events[0][0] if self._events else None


class _Worker:
    """A thread that runs one program after the other, and only while its starter waits."""

    def __init__(self) -> None:
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._work: Callable[[], None] = lambda: None
        threading.Thread(target=self._loop, name="simulated", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._go.acquire()
            self._work()
            self._work = lambda: None
            _idle.append(self)
            self._back.release()

    def begin(self, work: Callable[[], None]) -> None:
        self._work = work
        self.resume()

    def resume(self) -> None:
        self._go.release()
        self._back.acquire()

    def wait(self) -> None:
        self._back.release()
        self._go.acquire()


_idle: list[_Worker] = []


class Blocking:
    """A program with a stack of its own.

    Args:
      work: the program.
      ended: called with the error that ended it, None at its end.
    """

    def __init__(self, work: Callable[[], object], ended: Callable[[BaseException | None], None]):
        self._work, self._ended = work, ended
        self._worker: _Worker | None = None
        self._wait = 0
        self._answer: tuple[Any, BaseException | None] = (None, None)
        self.dead = False

    def begin(self) -> None:
        self._worker = _idle.pop() if _idle else _Worker()
        self._worker.begin(self._run)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work()
        except BaseException as raised:
            error = raised
        self._worker = None
        self._ended(error)

    # Called by the program itself.

    def block(self, ask: Callable[[Callable[..., None]], None]) -> Any:
        """Gives way to others until the function that `ask` is given is called.

        That function takes a value to return here, or `error=` one to raise.
        """
        self._wait += 1
        ask(functools.partial(self._answered, self._wait))
        assert self._worker is not None
        self._worker.wait()
        value, error = self._answer
        self._answer = (None, None)
        if error is not None:
            raise error
        return value

    # Called by others.

    def _answered(self, wait: int, value: Any = None, error: BaseException | None = None) -> None:
        if self._wait == wait and self._worker is not None and not self.dead:
            self._go_on((value, error))

    def _go_on(self, answer: tuple[Any, BaseException | None]) -> None:
        self._wait += 1
        self._answer = answer
        assert self._worker is not None
        self._worker.resume()

    def kill(self) -> None:
        """Ends the program where it waits."""
        self.dead = True
        if self._worker is not None:
            self._go_on((None, Killed()))
