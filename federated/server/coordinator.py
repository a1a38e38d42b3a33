"""The coordination of a run by the server: logins, updates, the end of a round, the next task.

Any number of threads call the methods that answer sites' requests. One thread drives the run
(`drive`), and it alone aggregates, selects and decides that a phase is over. The parts are `login`,
`uploads` (updates and models), `evaluation` (scores and rows) and `orders` (the operator's), which
share one `run_state`; the rules are the pure functions of `rounds` and `tasks`.
"""

from __future__ import annotations

import functools
import pathlib
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from absl import logging
from cryptography import x509

from federated import errors
from federated.aggregation import spooled_updates
from federated.aggregation.spooled_updates import StoredFile, Targets
from federated.audit import backfill
from federated.rounds import rounds, tasks
from federated.rounds.sum_phases import Exchange
from federated.secure_aggregation.opening import CannotOpen
from federated.security.credentials import CredentialBook
from federated.security.vocabulary import Vocabulary
from federated.server.config import ServerConfig, ServerSummary
from federated.server.evaluation import Evaluation
from federated.server.login import Login
from federated.server.orders import Orders
from federated.server.run_state import RunState
from federated.server.sums import Sums
from federated.server.uploads import Uploads
from federated.storage.store import Store
from federated.tensors import codec
from federated.tensors.tensor_files import TensorFile, file_manifest
from federated.tensors.weights import TensorManifest
from federated.wire import limits
from federated.wire.messages import SumPlace, SumPost, SumSettings, SumState
from runkit import backoff
from runkit.events import EventLog


class Coordinator:
    """Coordinates one run.

    Args:
      store: an open store whose run has been opened.
      config: the operator's settings.
      credentials: the sites of the federation and their credentials.
      events: the run's log.
      vocabulary: what sites may report.
      authority: the federation's authority; needed for secure aggregation only.
      clock: returns the seconds since the epoch; decides when tokens and certificates expire.
      monotonic: returns seconds; decides deadlines and silence.
    Attributes:
      orders: the operator's orders.
      specs: the tensors of every model of the run.
    """

    def __init__(
        self,
        store: Store,
        config: ServerConfig,
        credentials: CredentialBook,
        events: EventLog,
        *,
        vocabulary: Vocabulary,
        authority: x509.Certificate | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._run, self._events = RunState(store, config, events, clock, monotonic), events
        self._login = Login(self._run, credentials)
        self._sums = None if config.sums is None else Sums(self._run, authority)
        self._uploads = Uploads(self._run, lambda: credentials.current().sites, self._sums)
        self._evaluation = Evaluation(self._run, vocabulary)
        self.orders = Orders(self._run, self._uploads, self._evaluation)
        # Requests of sites that one part answers by itself; see its docstrings for their errors.
        self.check_credential = self._login.check_credential
        self.login = self._login.login
        self.record_of, self.identify = self._login.record_of, self._login.identify
        self.site_of = self._login.site_of
        self.specs = self._run.specs
        self.offer, self.send = self._uploads.offer, self._uploads.send
        self.report_scores = self._evaluation.report_scores
        self.declare_models = self._evaluation.declare_models
        self.submit_rows = self._evaluation.submit_rows
        if max(store.globals()) and store.best_round() is None:
            # The server was killed between discarding a round and the next selection.
            self._evaluation.select()
        self._prune()
        store.empty_discarded()
        if self._run.round is not None:
            self._run.log(
                "round_opened",
                round=self._run.round.number,
                received=sorted(self._run.round.received),
            )

    def next_task(
        self, site: str, *, wait_s: float = 0.0, asking: Callable[[], bool] = lambda: True
    ) -> tasks.Task:
        """Returns the next task of `site`.

        If that is to wait, returns only after `wait_s`, or once `asking` returns False.
        """
        run, deadline = self._run, time.monotonic() + wait_s
        with run.changed:
            while True:
                task = tasks.next_task(run.progress(), site)
                remaining = deadline - time.monotonic()
                if task.kind != "wait" or run.stopping or remaining <= 0 or not asking():
                    break
                run.changed.wait(remaining)
            if task.kind == "finished" and not run.store.sites()[site].confirmed:
                with run.changing():
                    run.store.confirm(site)
                    run.note_change()
                    run.log("site_finished", site=site)
            return task

    def wake(self) -> None:
        """Makes every waiting request check again whether its caller is still there."""
        with self._run.changed:
            self._run.changed.notify_all()

    def ask_sum(self, site: str, phase: str, place: SumPlace) -> SumState:
        """Returns what a site needs for a phase of secure aggregation; raises like `Sums.ask`."""
        return self._secure().ask(site, phase, place)

    def post_sum(self, site: str, post: SumPost) -> None:
        """Records a site's part in a phase of secure aggregation; raises like `Sums.post`."""
        self._secure().post(site, post)

    def _secure(self) -> Sums:
        if self._sums is None:
            raise errors.StaleUpdate(
                "this server runs without secure aggregation; ask for the next task"
            )
        return self._sums

    @property
    def transport(self) -> str:
        return self._run.config.transport

    @property
    def header_bytes(self) -> int:
        """Returns the size, in bytes, of the header of a model, or of a masked update."""
        kinds = [self._run.specs, *([] if self._sums is None else [self._sums.masked_specs()])]
        return max(map(limits.header_bytes, kinds))

    def open_model(self, name: str, sha256: str | None = None) -> tuple[TensorFile, TensorManifest]:
        """Opens a model: "round_000", "FL_global", "FL_best_global" or a published one.

        Returns:
          The file and its manifest.
        Raises:
          UnknownModel: if no model has that name, or its digest is no longer `sha256`.
          StorageTrouble: if its file is missing or damaged.
        """
        store = self._run.store
        with self._run.changed:
            path, held = self._locate(name)
            if sha256 not in (None, held):
                raise errors.UnknownModel(
                    f"model {name[:80]!r} has been replaced; ask for its description again"
                )
            try:
                file = TensorFile(path)
            except (FileNotFoundError, ValueError) as error:
                raise damaged_model(path) from error
            addresses = store.manifest_addresses(held)
        if addresses is None:  # a store of an earlier release
            manifest = file_manifest(file)
            with self._run.changed:
                store.keep_addresses(manifest)
            return file, manifest
        return file, TensorManifest(file.specs, addresses)

    def note_pulled(self, site: str, name: str, *, nbytes: int, seconds: float) -> None:
        """Logs that `site` has received the chunks of a model for which it asked."""
        with self._run.changed:
            self._run.note_traffic(site, sent=nbytes)
        if nbytes:
            self._run.log_repeatable(
                "pulled", site=site, model=name, bytes=nbytes, seconds=round(seconds, 3)
            )

    # The driving thread.

    def drive(self) -> bool:
        """Drives the run until it is finished (returns True) or `stop` is called (returns False).

        If the system fails (a full disk, too many open files, a failed read), this logs the
        failure, waits and tries again. Sites wait meanwhile. Confirmed data is kept, and nothing is
        deleted: a file counts as corrupt only because of its content.

        Raises:
          sqlite3.DatabaseError: if the database itself is damaged.
        """
        run, pauses = self._run, backoff.pauses(1.0)
        while True:
            try:
                with run.changed:
                    self._complete_log()
                    if run.stopping or run.store.finished:
                        return run.store.finished
                    version = run.version
                wait_s = self.advance()
                pauses, run.trouble = backoff.pauses(1.0), ""
            except (OSError, MemoryError, sqlite3.OperationalError) as error:
                wait_s = next(pauses)
                run.trouble = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
                logging.error("event=storage_trouble next_try_s=%g reason=%s", wait_s, run.trouble)
                with run.changed:
                    # Only the store shows how much of a change was made.
                    run.stale = run.log_is_behind = True
                    run.changed.wait_for(lambda: run.stopping, wait_s)
                    if run.stopping:
                        return False
                continue
            with run.changed:
                run.changed.wait_for(functools.partial(self._has_changed_since, version), wait_s)

    def _complete_log(self) -> None:
        """Logs the events that could not be logged before; called with the lock held."""
        if self._run.log_is_behind:
            backfill.complete(self._events, self._run.store)
            self._run.log_is_behind = False

    def _has_changed_since(self, version: int) -> bool:
        return self._run.version != version or self._run.stopping

    def advance(self) -> float | None:
        """Does everything that is due.

        Returns:
          Seconds until something may be due without a further event, or None if nothing will be.
        """
        run = self._run
        while True:
            with run.changed:
                now = run.clock()
                self._complete_log()
                if run.stale:
                    run.reopen()
                    self._evaluation.select()
                    self._prune()
                    run.stale = False
                    run.note_change()
                    run.store.empty_discarded()
                if run.store.paused:
                    return None
                if run.round is None:
                    wait_s = self._evaluation.advance(now)
                    if run.store.finished:
                        self._prune()
                        run.store.empty_discarded()
                    return wait_s
                run.round = run.without_absent(run.round, now)
                if self._sums is not None:
                    if self._sums.keys_expired(now):
                        self._try_again(run.round, now)
                        continue
                    opens, wait_s = self._sums.advance(now)
                    if not opens and wait_s == 0.0:
                        continue
                    if not opens:
                        return wait_s
                elif rounds.is_expired(run.round, run.policy, now=now):
                    self._try_again(run.round, now)
                    continue
                elif not rounds.is_over(run.round, run.policy, now=now):
                    return self._seconds_until_due(run.round, now)
                run.closing, closed = True, run.round
            try:
                self._close_round(closed)
            except BaseException:  # only the store shows whether the round is closed
                run.stale = run.log_is_behind = True
                raise
            finally:
                run.closing = False

    def wait_confirmed(self) -> None:
        """Waits until every site that was not evicted knows that the run is finished.

        It waits for at most `linger_s`.
        """
        with self._run.changed:
            self._run.changed.wait_for(
                lambda: self._run.stopping or self._all_confirmed(), self._run.config.linger_s
            )

    def stop(self) -> None:
        """Makes `drive` and every waiting request return."""
        with self._run.changed:
            self._run.stopping = True
            self._run.changed.notify_all()

    def close(self) -> None:
        """Stops, and closes the store with the lock held.

        SQLite must not be closed while a thread still answers a site.
        """
        with self._run.changed:
            self.stop()
            self._uploads.close()
            self._run.store.close()

    def summary(self) -> ServerSummary:
        store = self._run.store
        with self._run.changed:
            return ServerSummary(
                finished=store.finished,
                rounds=max(store.globals()),
                sites=tuple(sorted(store.took_part())),
                best_round=store.best_round(),
                rows=sum(map(len, store.rows().values())),
            )

    def _close_round(self, closed: rounds.Round) -> None:
        """Aggregates a round without holding the lock.

        Meanwhile sites can score, wait and send heartbeats as before; late updates are refused.
        """
        run, began = self._run, time.monotonic()
        error = codec.RoundingError() if run.config.transport == "half" else None
        updates = {run.store.update_path(update): update for update in closed.received.values()}
        rule, store, number = run.config.rule, run.store, closed.number
        with run.changed:
            verified = frozenset(filter(run.recently_verified.holds, updates))
            model = StoredFile(store.global_path(number - 1), store.globals()[number - 1])
            kept = store.rule_states().get(number - 1, "")
        sums, exchange = self._sums, run.exchange
        try:
            combine = None
            if sums is not None and exchange is not None:
                sums.verify(closed)
                combine = functools.partial(sums.mean, sums.masks(closed, exchange))
                verified = frozenset(updates)
            manifest, rule_state = spooled_updates.aggregate_spooled(
                rule,
                updates,
                Targets(store.global_path(number), store.rule_state_path(number)),
                run.specs,
                {**run.metadata, "round": str(number)},
                model=model,
                state=StoredFile(store.rule_state_path(number - 1), kept) if number > 1 else None,
                shared=run.sharing.shared,
                rounding=None if error is None else codec.rounding(error),
                verified=verified,
                combine=combine,
            )
        except spooled_updates.CorruptUpdate as corrupt:
            self._give_back(corrupt.update)
            return
        except CannotOpen as reason:
            with run.changed:
                self._secure().cannot_open(str(reason))
            return
        with run.changed:
            run.store.close_round(
                closed,
                manifest,
                rule_state=rule_state,
                keep_updates=run.config.keep_updates,
                keep_globals=run.config.keep_globals,
            )
            self._evaluation.select()
            if closed.number < run.last_round and self._evaluation.has_plateaued():
                run.store.end_after(closed.number, "plateau")
                run.log("ending", after_round=closed.number, reason="plateau")
            run.reopen()
            run.closing = False
            run.note_change()
            run.log(
                "aggregated",
                round=closed.number,
                sites={
                    site: update.num_examples for site, update in sorted(closed.received.items())
                },
                updates={site: update.sha256 for site, update in sorted(closed.received.items())},
                bytes=run.specs.nbytes,
                seconds=round(time.monotonic() - began, 3),
                sha256=manifest.sha256,
                aggregation=str(rule),
                **_about_sum(exchange, run.config.sums),
                **({} if rule_state is None else {"rule_state_sha256": rule_state.sha256}),
                **(
                    {}
                    if error is None
                    else {"rounding_error": error.relative, "rounding_largest": error.largest}
                ),
            )
            if run.round is not None:
                run.log("round_opened", round=run.round.number, received=[])
        run.store.empty_discarded()

    def _prune(self) -> None:
        config = self._run.config
        self._run.store.prune(keep_updates=config.keep_updates, keep_globals=config.keep_globals)

    def _try_again(self, expired: rounds.Round, now: float) -> None:
        """Starts another attempt at a round whose deadline passed before it had its minimum."""
        run = self._run
        run.round = state = rounds.reopened(expired, now=now)
        run.store.keep_attempt(state.number, state.attempt, now)
        run.note_change()
        run.log(
            "round_expired",
            round=state.number,
            attempt=state.attempt,
            received=sorted(state.received),
        )

    def _seconds_until_due(self, state: rounds.Round, now: float) -> float | None:
        run = self._run
        moments = [rounds.next_moment(state, run.policy)]
        if state.min_reached_at is not None:  # then a site that falls silent may end the wait
            timeout_s = run.config.heart_beat_timeout_s
            moments += [
                seen + timeout_s
                for site, seen in run.last_seen.items()
                if site not in state.absent and seen + timeout_s > now
            ]
        known = [moment for moment in moments if moment is not None]
        return max(0.0, min(known) - now) if known else None

    def _give_back(self, update: rounds.Update) -> None:
        """Removes from its round a spooled update that the disk has corrupted.

        The site then trains it again.
        """
        run = self._run
        with run.changed:
            run.store.forget_update(update)
            if self._sums is not None:
                self._sums.give_up(f"the disk has changed the update of site {update.site}")
            run.reopen()
            run.closing = False
            run.note_change()
        run.log("update_lost", site=update.site, round=update.round)

    def _locate(self, name: str) -> tuple[pathlib.Path, str]:
        store, digests = self._run.store, self._run.store.globals()
        if name in store.models():  # first, since a model that was given may be called FL_global
            return store.model_path(name), store.models()[name][1]
        if name == tasks.LAST_GLOBAL and self._run.round is None:
            name = tasks.global_name(max(digests))
        elif name == tasks.BEST_GLOBAL and store.fixed_models():
            name = tasks.global_name(store.fixed_best())
        number = tasks.global_number(name)
        # An old one may have been removed.
        kept = (0, max(digests), store.best_round())
        if number in digests and (number in kept or store.global_path(number).exists()):
            return store.global_path(number), digests[number]
        held = [
            tasks.global_name(number) for number in digests if store.global_path(number).exists()
        ]
        raise errors.UnknownModel(
            f"unknown model {name[:80]!r}; known are {', '.join([*held, *store.models()])}"
        )

    def _all_confirmed(self) -> bool:
        # This includes a site whose updates came too late for every round: otherwise it would wait
        # for a server that has stopped.
        return all(
            record.confirmed or record.evicted for record in self._run.store.sites().values()
        )


def damaged_model(path: pathlib.Path) -> errors.StorageTrouble:
    """Returns the error about a stored model that is no longer what the server wrote."""
    return errors.StorageTrouble(
        f"the server's {path.name} is missing or was changed on its disk; its operator must "
        "restore it from a backup, or discard the round that made it, and the site tries again by "
        "itself"
    )


def _about_sum(exchange: Exchange | None, settings: SumSettings | None) -> dict[str, Any]:
    """Returns the entry for secure aggregation in a round's log line; empty without it."""
    if exchange is None or settings is None:
        return {}
    return {
        "secure_aggregation": {
            "threshold": settings.threshold,
            "exchange": exchange.number,
            "dropped": sorted(exchange.closed["keys"] - exchange.survivors),
        }
    }
