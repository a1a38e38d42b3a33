"""What the parts of a coordinator share: one store, one lock, one clock, the open round, and the
log of what happened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from absl import logging

from federated.aggregation.update_checks import norm_of
from federated.rounds import rounds, tasks
from federated.rounds.rounds import Round
from federated.server.config import ServerConfig
from federated.storage.store import Store
from federated.storage.verified_files import VerifiedFiles
from federated.tensors.tensor_files import TensorFile
from runkit import printable
from runkit.events import EventLog
from runkit.line_budget import LineBudget


class RunState:
    """One run of a federation while a server leads it. Everything but `log` is touched only with
    `changed` held.

    Args:
      clock: seconds since the epoch, for what people and certificates tell.
      monotonic: seconds, of any beginning, of a clock that nobody sets.
    Attributes:
      clock: decides deadlines and silence: the time of day at which the server started, carried on
        by `monotonic`. A step of the machine's clock, by an hour or a day, moves none of them. What
        the store keeps of it is understood by the next server.
      wall_clock: decides when tokens and certificates end.
      changed: the lock, and the condition that is notified when a site's next task or the driving
          thread's may have changed.
      round: the open round, None after the last one.
      closing: the open round is over and being aggregated, without the lock.
      stale: the open round may not be that of the store, after an error in the middle of closing
          one.
      log_is_behind: an event could not be written; the store has what it was about.
      trouble: why the system keeps the run from going on at the moment, "" where nothing does.
      untouched: which updates in the spool need not be checked again.
      specs, metadata: of the initial model, and so of every model of the run.
      initial_norm: Euclidean norm of the initial model.
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
        self.stale = False
        self.log_is_behind = False
        self.trouble = ""
        self._lines = LineBudget(burst=1000, every_s=10.0)
        self.traffic: dict[
            str, tuple[int, int]
        ] = {}  # site -> bytes of models (sent to, received from) it since the server started
        self.untouched = VerifiedFiles()
        self.round: Round | None = None
        self.last_seen = dict.fromkeys(
            store.sites(), self.clock()
        )  # nobody is silent because the server was
        self.reopen()
        with TensorFile(store.global_path(0)) as initial:
            self.specs, self.metadata = initial.specs, initial.metadata
            self.num_values = sum(spec.size for spec in initial.specs)
            self.initial_norm = norm_of(initial)

    @property
    def last_round(self) -> int:
        return self.store.num_rounds(self.policy)

    def reopen(self) -> None:
        """Takes the open round from the store, with the sites that are away."""
        state = self.store.open_round(self.policy, now=self.clock())
        self.round = None if state is None else rounds.without(state, self.absent(self.clock()))

    def absent(self, now: float) -> frozenset[str]:
        """Returns the sites that were sent away or have been silent for too long."""
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
        """Appends an event; no field may hold a secret or a path.

        An event that cannot be written fails nothing: the store has what was done, and the log is
        completed from it (`audit.backfill`).
        """
        try:
            self._events.append(event, **fields)
        except OSError as error:
            self.log_is_behind = True
            logging.error("event=log_not_written reason=%s", error.strerror)
        shown = []
        for key, value in fields.items():
            number = value is None or isinstance(value, (int, float))
            shown.append(f"{key}={value if number else printable.text(value)}")
        logging.info("event=%s %s", event, " ".join(shown))

    def log_repeatable(self, event: str, *, site: str, **fields: Any) -> None:
        """Appends an event that a site can bring about as often as it likes: beyond a budget of
        lines it is only counted.
        """
        omitted = self._lines.take((site, event))
        if omitted is not None:
            self.log(event, site=site, **fields, **({"omitted": omitted} if omitted else {}))

    def progress(self) -> tasks.Progress:
        last, store = self.last_round, self.store
        return tasks.Progress(
            open_round=self.round,
            num_rounds=last,
            paused=store.paused,
            closing=self.closing,
            participants=store.participants(),
            scored=store.scored(last),
            declared=store.declared()
            if self.config.cross_site_evaluation
            else store.participants(),
            models=store.fixed_models(),
            reported=store.reported(),
            finished=store.finished,
            discarded=store.discarded,
        )

    def expected(
        self, participants: frozenset[str], now: float
    ) -> tuple[frozenset[str], float | None]:
        """Returns (whom a closing phase waits for, seconds until that may change).

        A silent site is no longer waited for, but never so that fewer than the minimum remain: with
        minimum = maximum no clock decides.
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
