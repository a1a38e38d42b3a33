"""The calls in progress at a server, with limits on their number per caller and on silence."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import grpc
from absl import logging

from federated.errors import FederationError, TooManyCalls
from runkit import periodic

# A waiting call, a heart beat, a transfer or its place in the queue; and as many again that may be
# left over from a killed process of the site.
PER_CALLER = 6
FIRST_MESSAGE_S = 60.0  # from a call's headers to its first message
# Between two messages of a transfer, in either direction; slow links send one far more often.
SILENCE_S = 600.0
_CHECK_EVERY_S = 1.0

Message = TypeVar("Message")


class Call:
    """One call in progress.

    `moved` reports every message, so that a slow transfer is kept alive and a silent one ends.
    """

    def __init__(
        self,
        caller: str,
        context: grpc.ServicerContext,
        verify: Callable[[], object],
        clock: Callable[[], float],
    ):
        self.caller, self.verify = caller, verify
        self._context, self._clock = context, clock
        self.ends = clock() + FIRST_MESSAGE_S

    def moved(self) -> None:
        self.ends = self._clock() + SILENCE_S

    def following(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yields `messages`; each one extends the call's deadline."""
        for message in messages:
            self.moved()
            yield message

    def end(self) -> None:
        self._context.cancel()


class Calls:
    """Every call of every caller, from its headers to its end. Thread-safe.

    A caller is a site that is, or recently was, admitted. By holding calls open it uses up only its
    own places. Once a second every call is checked: it ends if it has been idle for too long, or if
    its caller would now be turned away (evicted, revoked, expired). An upload that ended this way
    resumes once the site is admitted again.

    Args:
      per_caller: limit on the calls that one caller may have at the same time.
      on_call: called with (the connection as gRPC names it, caller) for each call.
      clock: seconds since any fixed moment.
    """

    def __init__(
        self,
        per_caller: int = PER_CALLER,
        *,
        on_call: Callable[[str, str], object] = lambda peer, caller: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._per_caller, self._on_call, self._clock = per_caller, on_call, clock
        self._lock, self._held = threading.Lock(), dict[str, set[Call]]()

    @contextlib.contextmanager
    def of(
        self,
        caller: str,
        context: grpc.ServicerContext,
        verify: Callable[[], object] = lambda: None,
    ) -> Iterator[Call]:
        """Holds one of the caller's places for the duration of the block.

        Args:
          verify: raises a FederationError once the caller is no longer admitted; called repeatedly.
        Raises:
          TooManyCalls: while all places of this caller are taken.
        """
        self._on_call(context.peer(), caller)
        call = Call(caller, context, verify, self._clock)
        with self._lock:
            held = self._held.setdefault(caller, set())
            if len(held) >= self._per_caller:
                raise TooManyCalls(
                    f"{caller!r} has {len(held)} calls in progress, the most that are allowed; "
                    "wait until one of them ends"
                )
            held.add(call)
        try:
            yield call
        finally:
            with self._lock:
                held.discard(call)
                if not held and self._held.get(caller) is held:
                    del self._held[caller]

    def check(self) -> None:
        """Ends every call that must be ended: it is silent, or its caller is refused."""
        now = self._clock()
        with self._lock:
            in_progress = [call for held in self._held.values() for call in held]
        for call in in_progress:
            reason = "silence" if now >= call.ends else _refusal(call)
            if reason:
                logging.info("event=call_ended caller=%s reason=%s", call.caller, reason)
                call.end()

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Checks the calls every second while the block runs."""
        return periodic.calls(self._watch, _CHECK_EVERY_S, name="calls")

    def _watch(self) -> None:
        try:
            self.check()
        except Exception:  # a failed check ends no call; the next one follows in a second
            logging.exception("event=calls_not_checked")


def _refusal(call: Call) -> str:
    try:
        call.verify()
    except FederationError as error:
        return type(error).__name__
    return ""
