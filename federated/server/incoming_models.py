"""The models that sites are sending: at most one per site.

A second attempt continues the first; two attempts at the same time fill the same model.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from federated.aggregation.update_checks import UpdateCheck
from federated.tensors.partial_file import PartialModel


class Transfer:
    """A model in transfer and the check of its values. Its files are closed after their last use.

    `Transfers` calls the methods with its lock held.

    Args:
      partial: the part that has arrived.
      check: the check, to which every chunk of that part has been given.
      trained_from: digest of the global model on which sparse chunks may be based; "" for none.
      close: closes the files.
    """

    def __init__(
        self,
        partial: PartialModel,
        check: UpdateCheck,
        close: Callable[[], None],
        trained_from: str = "",
    ):
        self.partial, self.check, self.trained_from = partial, check, trained_from
        self._close, self._users, self._retired = close, 0, False

    def begin_use(self) -> bool:
        """Counts a user; returns False if the transfer is over."""
        self._users += not self._retired
        return not self._retired

    def end_use(self) -> None:
        self._users -= 1
        if self._retired and not self._users:
            self._close()

    def retire(self) -> None:
        """Closes the files, or leaves that to the last user.

        Otherwise a thread that still writes could find its file descriptor reused for another file.
        """
        if not self._retired and not self._users:
            self._close()
        self._retired = True


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
                found = transfer is not None and name == key and transfer.begin_use()
            if transfer is None or not found:
                self.end(site)
                transfer = begin()
                with self._lock:
                    self._in_progress[site] = (key, transfer)
                    transfer.begin_use()
        try:
            yield transfer
        finally:
            with self._lock:
                transfer.end_use()

    def end(self, site: str, transfer: Transfer | None = None) -> None:
        """Forgets the transfer of a site; if `transfer` is given, only if it is that one."""
        with self._lock:
            held = self._in_progress.get(site)
            if held is not None and transfer in (None, held[1]):
                del self._in_progress[site]
                held[1].retire()

    def close(self) -> None:
        for site in list(self._in_progress):
            self.end(site)
