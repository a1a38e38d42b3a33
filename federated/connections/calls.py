"""The calls under way at a server: how many each caller may hold, how long each may stand still,
and what ends them early.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from absl import logging

from federated.errors import FederationError, TooManyCalls

# a call that waits, a heart beat, a transfer or its place in the queue; as many again of a site
# that was killed
PER_CALLER = 6
FIRST_MESSAGE_S = 60.0  # from a call's headers to its first message
SILENCE_S = (
    600.0  # between two messages of a transfer, either way; slow links send one far more often
)
_CHECK_EVERY_S = 1.0


class Call:
    """One call under way; `moved` is told of every message, so that a slow transfer goes on and a
    silent one ends.
    """

    def __init__(
        self,
        caller: str,
        context: grpc.ServicerContext,
        verify: Callable[[], Any],
        clock: Callable[[], float],
    ):
        self.caller, self.verify = caller, verify
        self._context, self._clock = context, clock
        self.ends = clock() + FIRST_MESSAGE_S

    def moved(self) -> None:
        self.ends = self._clock() + SILENCE_S

    def following(self, messages: Iterable[Any]) -> Iterator[Any]:
        """Yields `messages`, each of which moves the call's deadline on."""
        for message in messages:
            self.moved()
            yield message

    def end(self) -> None:
        self._context.cancel()


class Calls:
    """Every call of every caller, from its headers to its end. Thread-safe.

    A caller may be a site that is allowed here, or one that was a moment ago: holding calls open
    costs it its own places only. Once a second each call is looked at: one that has stood still for
    too long is ended, and so is one whose caller would be turned away by now (evicted, revoked,
    expired). A transfer that was ended goes on where it was once the site may come again.

    Args:
      per_caller: calls that one caller may hold at the same time.
      on_call: told (the connection as gRPC names it, caller) of each call.
      clock: seconds, of any beginning.
    """

    def __init__(
        self,
        per_caller: int = PER_CALLER,
        *,
        on_call: Callable[[str, str], Any] = lambda peer, caller: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._per_caller, self._on_call, self._clock = per_caller, on_call, clock
        self._lock, self._held = threading.Lock(), dict[str, set[Call]]()
        self._over = threading.Event()

    @contextlib.contextmanager
    def of(
        self, caller: str, context: grpc.ServicerContext, verify: Callable[[], Any] = lambda: None
    ) -> Iterator[Call]:
        """Holds a place of `caller` for the block.

        Args:
          verify: raises a FederationError once the caller is no longer let in; asked again and
              again.
        Raises:
          TooManyCalls: while all places of this caller are taken.
        """
        self._on_call(context.peer(), caller)
        call = Call(caller, context, verify, self._clock)
        with self._lock:
            held = self._held.setdefault(caller, set())
            if len(held) >= self._per_caller:
                raise TooManyCalls(
                    f"{caller!r} has {len(held)} calls under way, the most that are taken; wait until one of them ends"
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
        """Ends what should no longer go on."""
        now = self._clock()
        with self._lock:
            under_way = [call for held in self._held.values() for call in held]
        for call in under_way:
            reason = "silence" if now >= call.ends else _refusal(call)
            if reason:
                logging.info("event=call_ended caller=%s reason=%s", call.caller, reason)
                call.end()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Looks at the calls every second while the block runs."""
        thread = threading.Thread(target=self._watch, name="calls", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_CHECK_EVERY_S):
            try:
                self.check()
            except Exception:  # a look that fails ends no call; the next one comes in a second
                logging.exception("event=calls_not_checked")


def _refusal(call: Call) -> str:
    try:
        call.verify()
    except FederationError as error:
        return type(error).__name__
    return ""
