"""TransferQueue: concurrency, order, bounded wait, and callers that leave.

The clock is the test's own; nothing sleeps.
"""

from __future__ import annotations

import contextlib
import queue
import threading

import pytest

from federated.connections.transfer_queue import PACE_BYTES, TransferQueue


class Clock:
    """A clock that stands still until it is moved, and notices that it was read.

    A thread that asks for a slot reads it with the lock held until it waits.
    """

    def __init__(self):
        self.now, self._read = 0.0, threading.Semaphore(0)

    def __call__(self) -> float:
        self._read.release()
        return self.now

    @contextlib.contextmanager
    def read_in_block(self):
        while self._read.acquire(blocking=False):
            pass
        yield
        assert self._read.acquire(timeout=60)


class Queue:
    """Threads that ask for slots; `came` has the names of those that continued, in order."""

    def __init__(self, count: int):
        self.clock, self.came = Clock(), queue.Queue()
        self.transfers = TransferQueue(count, lapse_s=5.0, patience_s=30.0, clock=self.clock)
        self._held: dict[str, tuple[threading.Event, threading.Thread]] = {}

    def ask(self, name: str, wanted=lambda: True, reserved=None) -> None:
        """Returns when the thread waits, or has its slot."""
        over = threading.Event()

        def hold():
            with self.transfers.slot(wanted, name=reserved):
                self.came.put(name)
                assert over.wait(60)

        self._held[name] = over, threading.Thread(target=hold, daemon=True)
        with self.clock.read_in_block():
            self._held[name][1].start()

    def next(self) -> str:
        return self.came.get(timeout=60)

    def at(self, now: float) -> None:
        """Moves the clock; returns when a waiting thread has looked at it."""
        with self.clock.read_in_block():
            self.clock.now = now
            self.transfers.wake()

    def let_go(self, *names: str) -> None:
        for name in names:
            over, thread = self._held.pop(name)
            over.set()
            thread.join(60)
            assert not thread.is_alive()

    def nobody_came(self) -> bool:
        self.transfers.wake()  # takes the lock: a call that had read the clock waits now, or has gone on
        return self.came.empty()


def test_only_so_many_at_once_and_first_come_first_served():
    line = Queue(2)
    line.ask("a")
    line.ask("b")
    assert {line.next(), line.next()} == {"a", "b"}
    for name in "cde":
        line.ask(name)
    assert line.nobody_came()
    for leaves, comes in (("b", "c"), ("a", "d"), ("c", "e")):
        line.let_go(leaves)
        assert line.next() == comes
    line.let_go("d", "e")


def test_a_turn_lapses_when_its_transfer_is_slow_and_not_when_it_is_fast():
    line = Queue(1)
    with line.transfers.slot() as slot:
        line.ask("waits")
        line.clock.now = 4.0
        slot.moved(PACE_BYTES)
        line.at(8.9)
        assert line.nobody_came()
        slot.moved(PACE_BYTES - 1)
        line.at(9.0)
        assert line.next() == "waits"
    line.ask("next")
    assert line.nobody_came()  # the slot that lapsed was given back once, not twice
    line.let_go("waits")
    assert line.next() == "next"
    line.let_go("next")


def test_a_transfer_that_has_waited_long_enough_goes_on_without_a_turn():
    line = Queue(1)
    with line.transfers.slot() as slot:
        line.ask("late")
        for now in (4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0):
            line.clock.now = now
            slot.moved(PACE_BYTES)
        line.at(29.9)
        assert line.nobody_came()
        line.at(30.0)
        assert line.next() == "late"
        line.let_go("late")
        line.ask("next")  # a transfer without a slot gave none back
        assert line.nobody_came()
    assert line.next() == "next"
    line.let_go("next")


def test_a_caller_that_has_left_gives_up_its_place():
    line, there = Queue(1), [True]
    with line.transfers.slot():
        line.ask("leaves", wanted=lambda: there[0])
        line.ask("behind")
        there[0] = False
        line.transfers.wake()
        assert line.next() == "leaves"
        assert line.nobody_came()
    assert line.next() == "behind"
    line.let_go("leaves", "behind")


def test_a_reserved_turn_is_used_without_waiting():
    line = Queue(1)
    line.transfers.reserve("C1")
    line.transfers.reserve("C1")  # a second offer of the same site takes no second slot
    line.ask("waits")
    assert line.nobody_came()
    with line.transfers.slot(name="C1"):
        assert line.nobody_came()
    assert line.next() == "waits"
    line.let_go("waits")


def test_an_unused_reserved_turn_lapses():
    line = Queue(1)
    line.transfers.reserve("C1")
    line.ask("waits")
    line.at(5.0)
    assert line.next() == "waits"
    line.let_go("waits")


def test_a_turn_comes_back_after_an_error():
    line = Queue(1)
    with pytest.raises(OSError), line.transfers.slot():
        raise OSError
    line.ask("next")
    assert line.next() == "next"
    line.let_go("next")


def test_a_queue_without_turns_is_refused():
    with pytest.raises(ValueError, match="0 slots; expected at least 1"):
        TransferQueue(0)


def test_a_name_holds_one_turn_at_a_time():
    line = Queue(2)
    for number in range(4):
        line.ask(f"stalled {number}", reserved="C4")
    assert line.next() == "stalled 0"
    line.ask("honest", reserved="C1")
    assert line.next() == "honest"
    line.let_go("honest", *(f"stalled {number}" for number in range(4)))


def test_a_name_whose_last_turn_was_longest_ago_comes_first():
    line = Queue(1)
    for number in range(4):
        line.ask(f"stalled {number}", reserved="C4")
    assert line.next() == "stalled 0"
    line.ask("honest", reserved="C1")
    line.at(5.0)  # the first slot lapses
    assert line.next() == "honest"
    line.let_go("honest", *(f"stalled {number}" for number in range(4)))
