"""Keeps places free at the server's port: closes silent connections and limits each caller's.

gRPC itself accepts a fixed number of connections and ends stalled handshakes. With these limits
alone, the first callers could hold every place for as long as a handshake may take, and one site
with a valid certificate could hold them forever.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import socket
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from absl import logging

from runkit import periodic

CONNECTIONS_PER_CALLER = 6  # a site has one; its doctor and a restart have another each
_EVERY_S = 0.25
_PATIENCE_S = 0.5  # time for a handshake and a first call, once places are scarce

Address = tuple[str, int]


class PortGuard:
    """Watches the process's connections on one port. Thread-safe.

    While fewer than three quarters of the places are taken, only gRPC's own time limits close a
    connection. Beyond that, connections on which no known caller has made a call are closed at
    random until they hold at most a quarter of the places.

    Args:
      places: the number of connections that gRPC accepts.
      clock: seconds since any fixed moment.
    """

    def __init__(self, places: int, *, clock: Callable[[], float] = time.monotonic):
        self._places, self._clock = places, clock
        self._lock = threading.Lock()
        self._callers: dict[str, str] = {}  # peer -> caller
        self._since: dict[Address, float] = {}
        self._told = -math.inf  # when closed connections were last logged

    def note(self, peer: str, caller: str) -> None:
        """Records the caller of a connection.

        Args:
          peer: as gRPC writes it: "ipv4:127.0.0.1:1234", "ipv6:%5B::1%5D:1234".
        """
        with self._lock:
            self._callers[peer] = caller

    def look(self, port: int) -> int:
        """Closes the excess connections to the server's own `port`; returns their number."""
        now = self._clock()
        with contextlib.ExitStack() as stack:
            connections = {
                address: stack.enter_context(held) for address, held in connections_to(port)
            }
            with self._lock:
                found = {peer: _address(peer) for peer in self._callers}
                self._callers = {
                    peer: caller
                    for peer, caller in self._callers.items()
                    if found[peer] in connections
                }
                self._since = {address: self._since.get(address, now) for address in connections}
                callers = {
                    address: self._callers[peer]
                    for peer, address in found.items()
                    if address is not None and peer in self._callers
                }
                since = dict(self._since)
            leaving = _beyond(callers, since)
            unknown = [address for address in connections if address not in callers]
            if len(connections) >= 3 * self._places // 4:
                old = [address for address in unknown if now - since[address] >= _PATIENCE_S]
                random.shuffle(old)
                leaving += old[: max(0, len(unknown) - self._places // 4)]
            for address in leaving:
                with contextlib.suppress(OSError):  # it may have ended by itself
                    # gRPC notices that the connection is closed, and closes its end.
                    connections[address].shutdown(socket.SHUT_RDWR)
        return len(leaving)

    def watched(self, port: int) -> contextlib.AbstractContextManager[None]:
        """Looks four times a second while the block runs."""
        return periodic.calls(lambda: self._watch(port), _EVERY_S, name="port_guard")

    def _watch(self, port: int) -> None:
        try:
            closed = self.look(port)
        except OSError as error:  # no free descriptor to check with; gRPC's own limits apply
            logging.debug("event=door_blind reason=%s", error.strerror)
            return
        if closed and self._clock() - self._told >= 60:
            self._told = self._clock()
            logging.warning(
                "event=connections_closed count=%d note=many_hold_a_place_and_say_nothing",
                closed,
            )


def _beyond(callers: dict[Address, str], since: dict[Address, float]) -> list[Address]:
    """Returns the oldest connections of each caller that has too many.

    A site that connects again thus keeps its new connection.
    """
    by_caller = defaultdict[str, list[Address]](list)
    for address in sorted(callers, key=since.__getitem__):
        by_caller[callers[address]].append(address)
    return [
        address
        for held in by_caller.values()
        for address in held[: max(0, len(held) - CONNECTIONS_PER_CALLER)]
    ]


def connections_to(port: int) -> Iterator[tuple[Address, socket.socket]]:
    """Yields this process's connections to its own `port`.

    Each is the address of the other end, and a duplicate of our socket.
    """
    for name in os.listdir("/dev/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            held = socket.socket(fileno=copy)
        except OSError:  # another file took the number meanwhile
            os.close(copy)
            continue
        try:
            if held.family in (socket.AF_INET, socket.AF_INET6) and held.getsockname()[1] == port:
                peer = held.getpeername()
                yield (_plain(peer[0]), peer[1]), held
                continue
        except OSError:  # the listening socket has no other end
            pass
        held.close()


def _address(peer: str) -> Address | None:
    kind, _, rest = peer.partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    return _plain(host.replace("%5B", "").replace("%5D", "").strip("[]")), int(port)


def _plain(host: str) -> str:
    """Returns an address in the form that both sources share.

    A dual-stack socket shows an IPv4 address as ::ffff:127.0.0.1.
    """
    return host.removeprefix("::ffff:").partition("%")[0]
