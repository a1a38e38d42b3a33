"""The models that sites are sending: one a site, which a second attempt, or two at once, go on
filling.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from federated.aggregation.update_checks import UpdateCheck
from federated.tensors.partial_file import PartialModel


class Transfer:
    """A model under way with the gate that looks at it. Its files are closed when nobody uses it
    any more.
    """

    def __init__(self, partial: PartialModel, gate: UpdateCheck, close: Callable[[], None]):
        self.partial, self.gate = partial, gate
        self._close, self._users, self._retired, self._lock = close, 0, False, threading.Lock()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Transfer]:
        with self._lock:
            self._users += 1
        try:
            yield self
        finally:
            with self._lock:
                self._users -= 1
                last = self._retired and not self._users
            if last:
                self._close()

    def retire(self) -> None:
        """Closes the files: a thread that still writes keeps them open until it is done, lest it
        write into another file.
        """
        with self._lock:
            idle = not self._users and not self._retired
            self._retired = True
        if idle:
            self._close()


class Transfers:
    """Which transfer each site has under way. Thread-safe; a site waits for nobody but itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._site_locks: dict[str, threading.Lock] = {}
        self._under_way: dict[str, tuple[str, Transfer]] = {}

    @contextlib.contextmanager
    def of(self, site: str, key: str, begin: Callable[[], Transfer]) -> Iterator[Transfer]:
        """Yields the transfer of `site` named `key`: the one under way, or what `begin` makes, in
        place of any other of that site.
        """
        with self._lock:
            site_lock = self._site_locks.setdefault(site, threading.Lock())
        with site_lock:  # `begin` reads what a file holds already, which takes its time
            held = self._under_way.get(site)
            if held is None or held[0] != key:
                self.end(site)
                self._under_way[site] = (key, begin())
            transfer = self._under_way[site][1]
            used = transfer.in_use()
            used.__enter__()
        try:
            yield transfer
        finally:
            used.__exit__(None, None, None)

    def end(self, site: str, key: str | None = None) -> None:
        """Forgets the transfer of a site, if it is the one named `key`."""
        held = self._under_way.get(site)
        if held is not None and key in (None, held[0]):
            del self._under_way[site]
            held[1].retire()

    def close(self) -> None:
        for site in list(self._under_way):
            self.end(site)
