"""Detects that the server no longer accepts connections.

gRPC permanently abandons its listening socket if the system refuses it a connection once: for lack
of memory, for lack of free descriptors in the whole system, or by a firewall rule. The port stays
open, the system completes connections to it, and callers wait forever.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from absl import logging

from federated.connections.port_guard import connections_to
from runkit import periodic

EVERY_S, PATIENCE_S = 60.0, 30.0
_STEP_S = 0.05


class ListenerCheck:
    """Connects to the server's own port from time to time.

    A connection counts as accepted once this process has its other end. If no connection can be
    made, that is inconclusive: many callers may fill the queue of a server that accepts as fast as
    it can.

    Args:
      host: the address that the server listens on; for a wildcard, the loopback address is used.
      on_loss: called once, when a connection was not accepted within `patience_s`.
      clock: seconds since any fixed moment.
    """

    def __init__(
        self,
        host: str,
        port: int,
        on_loss: Callable[[], None],
        *,
        patience_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._address = _reachable(host), port
        self._on_loss, self._clock = on_loss, clock
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._over = threading.Event()

    def is_lost(self) -> bool:
        """Makes one connection; returns whether it is not accepted."""
        try:
            ours = socket.create_connection(self._address, self._patience_s)
        except OSError:
            return False
        with ours:
            own, deadline = ours.getsockname()[:2], self._clock() + self._patience_s
            while not self._is_accepted(own):
                if self._clock() >= deadline:
                    return True
                if self._over.wait(_STEP_S):
                    return False
        return False

    def _is_accepted(self, own: tuple[str, int]) -> bool:
        with contextlib.ExitStack() as held:
            found = [
                (address, held.enter_context(end))
                for address, end in connections_to(self._address[1])
            ]
            return any(address[1] == own[1] for address, _ in found)

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Checks every `EVERY_S` seconds while the block runs, until the first loss."""
        return periodic.calls(self._watch, EVERY_S, name="listener_check", over=self._over)

    def _watch(self) -> None:
        try:
            lost = self.is_lost()
        except OSError as error:  # no free descriptor to check with
            logging.debug("event=listener_check_blind reason=%s", error.strerror)
            return
        if lost:
            logging.error("event=listener_lost port=%d", self._address[1])
            self._over.set()
            self._on_loss()


def _reachable(host: str) -> str:
    plain = host.strip("[]")
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(plain, plain)
