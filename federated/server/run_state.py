"""The state that the parts of a coordinator share: store, lock, clock, open round and log."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from federated import errors
from federated.aggregation.update_checks import norm_of
from federated.rounds import rounds, sharing, tasks
from federated.rounds.rounds import Round
from federated.rounds.sum_phases import Exchange
from federated.server.config import ServerConfig
from federated.storage.recently_verified import RecentlyVerified
from federated.storage.store import Store
from federated.tensors.tensor_files import TensorFile, selected
from runkit import printable
from runkit.events import EventLog
from runkit.line_budget import LineBudget


class RunState:
    """One run of a federation while a server coordinates it.

    Everything but `log` may be used only with `changed` held.

    Args:
      clock: returns the time of day in seconds since the epoch.
      monotonic: returns seconds since any fixed moment, from a clock that is never set.
    Attributes:
      clock: decides deadlines and silence. It is the time of day at which the server started,
          continued by `monotonic`, so that deadlines do not move if the machine's clock is set. The
          times in the store remain valid for the next server.
      wall_clock: decides when tokens and certificates expire.
      changed: the lock, and the condition that is notified when the next task of a site or of the
          driving thread may have changed.
      round: the open round; None after the last one.
      exchange: the exchange of the open round, in a run with secure aggregation.
      closing: the open round is over and is being aggregated, without the lock.
      stale: the open round may differ from that in the store, after an error while a round was
          closed or while a request changed the store.
      log_is_behind: an event could not be written; the store has the facts.
      trouble: the failure of the system that keeps the run from continuing at the moment, or "".
      traffic: site -> bytes of models (sent to it, received from it) since the server started.
      recently_verified: the spooled updates that need not be checked again.
      specs, metadata: tensors and metadata of the initial model, and so of every global model.
      sharing: how the plan treats each of these arrays.
      shared_specs: the arrays of an update, and of a model that a site lends.
      num_values: number of values in an update.
      initial_norm: Euclidean norm of the shared arrays of the initial model.
    """

    def __init__(
        self,
        store: Store,
        config: ServerConfig,
        events: EventLog,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ):
        self.store, self.config, self.policy = store, config, config.policy
        ahead = clock() - monotonic()
        self.clock, self.wall_clock = lambda: monotonic() + ahead, clock
        self._events = events
        self.changed = threading.Condition(threading.RLock())
        self.version = 0
        self.stopping = False
        self.closing = False
        self._progress: tasks.Progress | None = None
        self._progress_of = 0  # `store.changes` when it was made
        self.stale = False
        self.log_is_behind = False
        self.trouble = ""
        self._lines = LineBudget(burst=1000, every_s=10.0)
        self.traffic: dict[str, tuple[int, int]] = {}
        self.recently_verified = RecentlyVerified()
        self.round: Round | None = None
        self.exchange: Exchange | None = None
        # The time during which the server was down does not count as a site's silence.
        self.last_seen = dict.fromkeys(store.sites(), self.clock())
        self.openings = 0  # how often `reopen` was called
        self.reopen()
        with TensorFile(store.global_path(0)) as initial:
            self.specs, self.metadata = initial.specs, initial.metadata
            self.sharing = sharing.of_plan(store.plan).of(spec.name for spec in self.specs)
            shared = selected(initial, self.sharing.shared)
            self.shared_specs = shared.specs
            self.num_values = sum(spec.size for spec in shared.specs)
            self.initial_norm = norm_of(shared)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Holds `changed` while the store is changed.

        If the system fails in the block, only the store shows how much of the change was made. The
        driving thread then reads the open round from it again, and completes the log.
        """
        with self.changed:
            try:
                yield
            except (OSError, MemoryError, sqlite3.Error):
                self.stale = self.log_is_behind = True
                self.note_change()
                raise

    @property
    def last_round(self) -> int:
        return self.store.num_rounds(self.policy)

    def reopen(self) -> None:
        """Reads the open round from the store, and determines which sites are absent."""
        self.openings += 1
        state = self.store.open_round(self.policy, now=self.clock())
        self.round = None if state is None else self.without_absent(state, self.clock())
        sums = self.store.sums
        self.exchange = (
            sums.open(self.round, now=self.clock()) if self.round is not None and sums else None
        )

    def without_absent(self, state: Round, now: float) -> Round:
        """Returns a round that does not wait for the sites that are absent now."""
        return rounds.without(state, self.absent(now), replaced=self.replaced())

    def replaced(self) -> int:
        """Returns the number of evicted sites whose places other sites have taken."""
        evicted = [record.evicted for record in self.store.sites().values()]
        free = self.policy.max_num_clients - evicted.count(False)
        return evicted.count(True) - min(evicted.count(True), max(0, free))

    def absent(self, now: float) -> frozenset[str]:
        """Returns the sites that were evicted or have been silent for too long."""
        timeout_s = self.config.heart_beat_timeout_s
        return frozenset(
            site
            for site, record in self.store.sites().items()
            if record.evicted or self.last_seen.get(site, now) + timeout_s <= now
        )

    def note_traffic(self, site: str, *, sent: int = 0, received: int = 0) -> None:
        before = self.traffic.get(site, (0, 0))
        self.traffic[site] = (before[0] + sent, before[1] + received)

    def note_change(self) -> None:
        self.version += 1
        self.changed.notify_all()

    def log(self, event: str, **fields: Any) -> None:
        """Appends an event; its fields must not contain a secret or a path.

        A failed write does not raise an error: the store has the facts, and the log is completed
        from it (`audit.backfill`).
        """
        try:
            self._events.append(event, **fields)
        except OSError as error:
            self.log_is_behind = True
            logging.error("event=log_not_written reason=%s", error.strerror)
        logging.info("event=%s %s", event, printable.Fields(fields))

    def log_repeatable(self, event: str, *, site: str, **fields: Any) -> None:
        """Appends an event that a site can cause any number of times.

        Beyond a budget of lines, the event is only counted.
        """
        omitted = self._lines.take((site, event))
        if omitted is not None:
            self.log(event, site=site, **fields, **({"omitted": omitted} if omitted else {}))

    def progress(self) -> tasks.Progress:
        """Returns how far the run is. Every waiting site asks for it again after each change, so it
        is made out once for each.
        """
        known, changes = self._progress, self.store.changes
        if (
            known is None
            or self._progress_of != changes
            or known.open_round is not self.round
            or known.exchange is not self.exchange
            or known.closing != self.closing
        ):
            known, self._progress_of = self._progress_now(), changes
            self._progress = known
        return known

    def _progress_now(self) -> tasks.Progress:
        last, store = self.last_round, self.store
        participants = store.participants()
        return tasks.Progress(
            open_round=self.round,
            num_rounds=last,
            paused=store.paused,
            closing=self.closing,
            participants=participants,
            scored=store.scored(last),
            declared=store.declared() if self.config.cross_site_evaluation else participants,
            models=store.fixed_models(),
            reported=store.reported(),
            finished=store.finished,
            discarded=store.discarded,
            exchange=self.exchange,
        )

    def expected(
        self, participants: frozenset[str], now: float
    ) -> tuple[frozenset[str], float | None]:
        """Returns (the sites for which a closing phase waits, seconds until that may change).

        The phase does not wait for a silent site, unless fewer than the minimum would remain: if
        minimum and maximum are equal, the clock plays no part.
        """
        sites = self.store.sites()
        participants = frozenset(site for site in participants if not sites[site].evicted)
        silent_at = {
            site: self.last_seen.get(site, now) + self.config.heart_beat_timeout_s
            for site in participants
        }
        heard = frozenset(site for site in participants if silent_at[site] > now)
        if len(heard) < self.policy.min_num_clients:
            return participants, None
        return heard, min(silent_at[site] for site in heard) - now


def unread_store() -> errors.StorageTrouble:
    """Returns the error while the open round has to be read from the store again (`stale`)."""
    return errors.StorageTrouble(
        "the server could not read or write its store just now; the site tries again by itself"
    )
