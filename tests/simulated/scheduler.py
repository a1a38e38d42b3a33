"""Virtual time, and programs written as blocking code that run one at a time.

A site's loop blocks in the middle of its own code, so it needs a stack of its own: a thread (the
standard library has nothing lighter, and rewriting the loop as a generator would test other code
than the one that hospitals run). Exactly one thread runs at any moment, chosen by the time of the
next event, so a seed always gives the same run. Threads are used again for later programs.

To wake another thread costs as much as a good part of an event. So a program that waits lets the
next events happen itself, in its own thread, until one of them concerns another program.
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
    """Runs events in the order of their time.

    `run` belongs to one thread, the home of the schedule. While it waits there, the events happen
    in the threads of the programs.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None], Callable[[], bool] | None]] = []
        self._number = 0  # of the last event that was added
        self._until, self._over = -1.0, _never  # of the innermost `run`
        self._ready: Blocking | None = None  # the program that goes on after this event
        self._home = threading.Lock()  # released for the thread that calls `run`
        self._home.acquire()
        self._at_home = True
        self._error: BaseException | None = None

    def at(
        self, time: float, event: Callable[[], None], may_run: Callable[[], bool] | None = None
    ) -> None:
        """Lets an event happen at a time.

        Args:
          may_run: whether the event may call `run`, which is possible at home only.
        """
        if time < self.now:
            time = self.now
        self._number = number = self._number + 1
        heapq.heappush(self._events, (time, number, event, may_run))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self._number = number = self._number + 1
        now = self.now
        heapq.heappush(self._events, (now + seconds if seconds > 0 else now, number, event, None))

    def run(self, until: float, over: Callable[[], bool] = lambda: False) -> None:
        """Runs events up to a time, or until `over`. May be called again inside an event."""
        assert self._at_home
        outer = self._until, self._over
        self._until, self._over = until, over
        try:
            events = self._events
            while events and events[0][0] <= until and not over():
                time, _, event, _ = heapq.heappop(events)
                if time > self.now:
                    self.now = time
                event()
                if self._ready is not None:
                    self.settle()
        finally:
            self._until, self._over = outer
        if not over():
            self.now = max(self.now, until)

    def settle(self) -> None:
        """Lets the program that is ready go on; returns once events must happen here again."""
        ready, self._ready = self._ready, None
        if ready is not None:
            self._at_home = False
            ready.go_on()
            self._home.acquire()
            self._at_home = True
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self, program: Blocking) -> None:
        """Returns when a program is ready; called in its thread, where events happen meanwhile."""
        ready = self._happen_until_ready()
        if ready is None:
            self.go_home()
        elif ready is not program:
            ready.go_on()
        if ready is not program:
            program.stand_by()

    def _happen_until_ready(self) -> Blocking | None:
        """Runs events until a program is ready; returns None if the next ones must happen at home."""
        events = self._events
        while events and events[0][0] <= self._until and not self._over():
            time, _, event, may_run = events[0]
            if may_run is not None and may_run():
                break
            heapq.heappop(events)
            if time > self.now:
                self.now = time
            try:
                event()
            except BaseException as error:  # raised again at home
                self._error = error
                break
            if self._ready is not None:
                ready, self._ready = self._ready, None
                return ready
        return None

    def go_home(self) -> None:
        """Lets the thread that calls `run` continue."""
        self._home.release()

    def be_ready(self, program: Blocking) -> None:
        """Lets a program go on as soon as the event that happens now is over."""
        assert self._ready is None
        self._ready = program


def _never() -> bool:
    return False


class _Worker:
    """A thread that runs one program after the other."""

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.work: Callable[[], Scheduler]
        threading.Thread(target=self._loop, name="simulated", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self.go.acquire()
            schedule = self.work()
            del self.work
            _idle.append(self)
            schedule.go_home()


_idle: list[_Worker] = []


class Blocking:
    """A program with a stack of its own.

    Args:
      schedule: whose events happen while the program waits.
      work: the program.
      ended: called with the error that ended it, None at its end.
    """

    def __init__(
        self,
        schedule: Scheduler,
        work: Callable[[], object],
        ended: Callable[[BaseException | None], None],
    ):
        self._schedule, self._work, self._ended = schedule, work, ended
        self._worker: _Worker | None = None
        self._wait = 0
        self._answer: tuple[Any, BaseException | None] = (None, None)
        self.dead = False

    def begin(self) -> None:
        self._worker = _idle.pop() if _idle else _Worker()
        self._worker.work = self._run
        self._schedule.be_ready(self)

    def _run(self) -> Scheduler:
        error: BaseException | None = None
        try:
            self._work()
        except BaseException as raised:
            error = raised
        self._worker = None
        self._ended(error)
        del error  # its traceback holds this frame: a circle that only the collector would find
        return self._schedule

    # Called by the program itself.

    def block(self, ask: Callable[[Callable[..., None]], None]) -> Any:
        """Gives way to others until the function that `ask` is given is called.

        That function takes a value to return here, or `error=` one to raise.
        """
        self._wait += 1
        ask(functools.partial(self._answered, self._wait))
        self._schedule.wait(self)
        value, error = self._answer
        self._answer = (None, None)
        if error is not None:
            try:
                raise error
            finally:
                del error  # as in `_run`
        return value

    def stand_by(self) -> None:
        """Waits until `go_on`."""
        assert self._worker is not None
        self._worker.go.acquire()

    # Called by others.

    def go_on(self) -> None:
        """Lets the program's thread continue; that of the caller must then wait."""
        assert self._worker is not None
        self._worker.go.release()

    def _answered(self, wait: int, value: Any = None, error: BaseException | None = None) -> None:
        if self._wait == wait and self._worker is not None and not self.dead:
            self._be_ready((value, error))

    def _be_ready(self, answer: tuple[Any, BaseException | None]) -> None:
        self._wait += 1
        self._answer = answer
        self._schedule.be_ready(self)

    def kill(self) -> None:
        """Ends the program where it waits, as soon as the event that happens now is over."""
        self.dead = True
        if self._worker is not None:
            self._be_ready((None, Killed()))
