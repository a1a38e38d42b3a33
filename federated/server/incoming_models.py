"""The models that sites are sending: at most one per site.

A second attempt continues the first; two attempts at the same time fill the same model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

from federated.aggregation.update_checks import UpdateCheck
from federated.tensors.partial_file import PartialModel


@dataclasses.dataclass(eq=False)
class Transfer:
    """A model in transfer and the check of its values.

    `Transfers` holds it while it is in progress, and so does every thread that fills it; the last
    one that lets go of it closes its files. Otherwise a thread that still writes could find its
    file descriptor reused for another file.
    """

    partial: PartialModel  # the part that has arrived
    check: UpdateCheck  # to which every chunk of that part has been given
    close: Callable[[], None]  # closes the files
    trained_from: str = ""  # digest of the model on which sparse chunks may be based; "" for none
    holders: int = 1  # changed with the lock of `Transfers` held

    def let_go(self) -> None:
        self.holders -= 1
        if not self.holders:
            self.close()


class Transfers:
    """The transfer of each site. Thread-safe; a site waits only for itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._site_locks: dict[str, threading.Lock] = {}
        self._in_progress: dict[str, tuple[str, Transfer]] = {}

    @contextlib.contextmanager
    def of(self, site: str, key: str, begin: Callable[[], Transfer]) -> Iterator[Transfer]:
        """Yields the transfer of `site` named `key`.

        If that one is in progress, it is resumed; otherwise the result of `begin` replaces any
        other transfer of the site.
        """
        with self._lock:
            site_lock = self._site_locks.setdefault(site, threading.Lock())
        with site_lock:  # `begin` reads the existing content of a file, which takes time
            with self._lock:
                name, transfer = self._in_progress.get(site, ("", None))
                if transfer is not None and name == key:
                    transfer.holders += 1
            if transfer is None or name != key:
                self.end(site)
                transfer = begin()
                with self._lock:
                    self._in_progress[site] = (key, transfer)
                    transfer.holders += 1
        try:
            yield transfer
        finally:
            with self._lock:
                transfer.let_go()

    def end(self, site: str, transfer: Transfer | None = None) -> None:
        """Forgets the transfer of a site; if `transfer` is given, only if it is that one."""
        with self._lock:
            held = self._in_progress.get(site)
            if held is not None and transfer in (None, held[1]):
                del self._in_progress[site]
                held[1].let_go()

    def close(self) -> None:
        for site in list(self._in_progress):
            self.end(site)
