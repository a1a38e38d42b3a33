"""The run as the server leads it: who may come, what they send, when a round is over, what is next.

Any number of threads call the methods that stand for a site's request; one thread drives (`drive`),
and it alone aggregates, selects and decides that a phase is over. The parts: `admission` (who),
`intake` (updates and models), `evaluation` (scores and rows), `aggregation` (the rule), `steering`
(the operator), `rounds` and `agenda` (the rules, pure), over one `run_state`.
"""

from __future__ import annotations

import math
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from federated import errors
from federated.aggregation import spooled_updates
from federated.aggregation.spooled_updates import StoredFile, Targets
from federated.audit import log as audit_log
from federated.rounds import rounds, tasks
from federated.security.credentials import CredentialBook
from federated.server.config import ServerConfig, ServerSummary
from federated.server.evaluation import Evaluation
from federated.server.login import Login
from federated.server.orders import Orders
from federated.server.run_state import RunState
from federated.server.uploads import Uploads
from federated.storage.store import Store
from federated.tensors import codec
from federated.tensors.tensor_files import TensorFile, file_manifest
from federated.tensors.weights import CHUNK_BYTES, TensorManifest
from federated.wire.messages import PROTOCOL, Answer, Offer, Receipt, Session
from runkit import backoff
from runkit.events import EventLog


class Coordinator:
    """Leads one run.

    Args:
      store: an open store whose run has been opened.
      config: the operator's decisions.
      credentials: which sites there are.
      events: log of what happened.
      clock: seconds since the epoch; decides when tokens and certificates end.
      monotonic: seconds; decides deadlines and silence.
    Attributes:
      steering: requests of the operator.
    """

    def __init__(
        self,
        store: Store,
        config: ServerConfig,
        credentials: CredentialBook,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._run, self._events = RunState(store, config, events, clock, monotonic), events
        self._admission = Login(self._run, credentials)
        self._intake = Uploads(self._run, lambda: credentials.sites)
        self._evaluation = Evaluation(self._run)
        self.steering = Orders(self._run, self._intake, self._evaluation)
        if (
            max(store.globals()) and store.best_round() is None
        ):  # a kill came between a round that was discarded and the next choice
            self._evaluation.select()
        if self._run.round is not None:
            self._run.log(
                "round_opened",
                round=self._run.round.number,
                received=sorted(self._run.round.received),
            )

    # Requests of sites; what they raise is written where they are carried out.

    def login(
        self,
        site: str,
        credential: str,
        plan: dict,
        num_examples: int,
        *,
        certificate: str = "",
        certificate_ends: float = math.inf,
        protocol: int = PROTOCOL,
        labels: Mapping[str, str] | None = None,
    ) -> Session:
        return self._admission.login(
            site,
            credential,
            plan,
            num_examples,
            certificate=certificate,
            certificate_ends=certificate_ends,
            protocol=protocol,
            labels=labels or {},
        )

    def site_of(self, token: str, certificate: str | None = None) -> str:
        return self._admission.site_of(token, certificate)

    def check_token(self, token: str, certificate: str | None = None) -> str:
        return self._admission.check_token(token, certificate)

    def check_credential(self, site: str, credential: str) -> None:
        self._admission.check_credential(site, credential)

    def offer(self, site: str, offer: Offer) -> Answer:
        return self._intake.offer(site, offer)

    def send(
        self,
        site: str,
        offer: Offer,
        chunks: Iterable[codec.Chunk],
        verify: Callable[[], Any] = lambda: None,
    ) -> Receipt:
        return self._intake.send(site, offer, chunks, verify)

    def report_scores(
        self, site: str, model: int, scores: Mapping[str, float], sha256: str = ""
    ) -> None:
        self._evaluation.report_scores(site, model, scores, sha256)

    def declare_models(self, site: str, names: Sequence[str]) -> None:
        self._evaluation.declare_models(site, names)

    def submit_rows(
        self, site: str, rows: Iterable[Mapping[str, Any]], verify: Callable[[], Any] = lambda: None
    ) -> None:
        self._evaluation.submit_rows(site, rows, verify)

    def next_task(
        self, site: str, *, wait_s: float = 0.0, asking: Callable[[], bool] = lambda: True
    ) -> tasks.Task:
        """Returns what `site` is to do; while that is to wait, answers only after `wait_s`, or when
        `asking` turns false.
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
                run.store.confirm(site)
                run.note_change()
                run.log("site_finished", site=site)
            return task

    def wake(self) -> None:
        """Makes every waiting request look again whether its caller is still there."""
        with self._run.changed:
            self._run.changed.notify_all()

    @property
    def transport(self) -> str:
        return self._run.config.transport

    @property
    def header_bytes(self) -> int:
        """Returns about how many bytes the header of one of this run's models has."""
        specs = self._run.specs
        return sum(len(spec.name) + 40 for spec in specs) + 32 * (
            1 + sum(spec.nbytes for spec in specs) // CHUNK_BYTES
        )

    def open_model(
        self, site: str, name: str, sha256: str | None = None
    ) -> tuple[TensorFile, TensorManifest]:
        """Returns a model, open, and its manifest: "round_000", "FL_global", "FL_best_global" or a
        published one.

        Raises:
          UnknownModel: also where it is not the model of digest `sha256` any more.
        """
        store = self._run.store
        with self._run.changed:
            path, held = self._locate(name)
            if sha256 not in (None, held):
                raise errors.UnknownModel(
                    f"model {name[:80]!r} is another one by now; ask for its description again"
                )
            file = TensorFile(path)
            addresses = store.manifest_addresses(held)
        if addresses is None:  # a store of an earlier release
            manifest = file_manifest(file)
            with self._run.changed:
                store.keep_addresses(manifest)
            return file, manifest
        return file, TensorManifest(file.specs, addresses)

    def note_pulled(self, site: str, name: str, *, nbytes: int, seconds: float) -> None:
        """Logs that `site` received what it asked for of a model."""
        with self._run.changed:
            self._run.note_traffic(site, sent=nbytes)
        if nbytes:
            self._run.log_repeatable(
                "pulled", site=site, model=name, bytes=nbytes, seconds=round(seconds, 3)
            )

    # The driving thread.

    def drive(self) -> bool:
        """Leads the run until it is finished (True) or `stop` is called (False).

        While the system refuses (a full disk, too many open files, a read that fails), it says so,
        waits, and tries again. What was confirmed stays, sites wait meanwhile, and nothing is
        dropped: only what a file holds can make it corrupt.

        Raises:
          sqlite3.DatabaseError: where the database itself is damaged.
        """
        run, pauses = self._run, backoff.pauses(1.0)
        while True:
            with run.changed:
                if run.stopping or run.store.finished:
                    return run.store.finished
                version = run.version
            try:
                wait_s = self.advance()
                pauses, run.trouble = backoff.pauses(1.0), ""
            except (OSError, MemoryError, sqlite3.OperationalError) as error:
                wait_s = next(pauses)
                run.trouble = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
                logging.error("event=storage_trouble next_try_s=%g reason=%s", wait_s, run.trouble)
                with run.changed:
                    run.changed.wait_for(lambda: run.stopping, wait_s)
                continue
            with run.changed:
                run.changed.wait_for(
                    lambda seen=version: run.version != seen or run.stopping, wait_s
                )

    def advance(self) -> float | None:
        """Does all that is due; returns seconds until something may be due by the clock alone, None
        if nothing will be.
        """
        run = self._run
        while True:
            with run.changed:
                now = run.clock()
                if run.log_is_behind:
                    audit_log.backfill(self._events, run.store)
                    run.log_is_behind = False
                if run.stale:
                    run.reopen()
                    self._evaluation.select()
                    run.stale = False
                    run.note_change()
                if run.store.paused:
                    return None
                if run.round is None:
                    return self._evaluation.advance(now)
                run.round = rounds.without(run.round, run.absent(now))
                if rounds.is_expired(run.round, run.policy, now=now):
                    self._try_again(now)
                    continue
                if not rounds.is_over(run.round, run.policy, now=now):
                    return self._seconds_until_due(now)
                run.closing, closed = True, run.round
            try:
                self._close_round(closed)
            except BaseException:  # the store may have closed it, or not: it knows
                run.stale = run.log_is_behind = True
                raise
            finally:
                run.closing = False

    def wait_confirmed(self) -> None:
        """Returns when every site that was not sent away knows that the run is finished, after
        `linger_s` at the latest.
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
        """Stops, and closes the store under the lock: SQLite must not be closed beneath a thread
        that still answers a site.
        """
        with self._run.changed:
            self.stop()
            self._intake.close()
            self._run.store.close()

    def summary(self) -> ServerSummary:
        store = self._run.store
        with self._run.changed:
            return ServerSummary(
                finished=store.finished,
                rounds=max(store.globals()),
                sites=tuple(sorted(store.participants())),
                best_round=store.best_round(),
                rows=sum(map(len, store.rows().values())),
            )

    def _close_round(self, closed: rounds.Round) -> None:
        """Aggregates without the lock: sites go on scoring, waiting and beating meanwhile; late
        updates are refused.
        """
        run, began = self._run, time.monotonic()
        error = codec.RoundingError() if run.config.transport == "half" else None
        updates = {run.store.update_path(update): update for update in closed.received.values()}
        rule, store, number = run.config.rule, run.store, closed.number
        with run.changed:
            verified = frozenset(filter(run.untouched.holds, updates))
            model = StoredFile(store.global_path(number - 1), store.globals()[number - 1])
            kept = store.rule_states().get(number - 1, "")
        try:
            manifest, rule_state = spooled_updates.aggregate_spooled(
                rule,
                updates,
                Targets(store.global_path(number), store.rule_state_path(number)),
                run.specs,
                {**run.metadata, "round": str(number)},
                model=model,
                state=StoredFile(store.rule_state_path(number - 1), kept) if number > 1 else None,
                rounding=None if error is None else codec.rounding(error),
                verified=verified,
            )
        except spooled_updates.CorruptUpdate as corrupt:
            self._give_back(corrupt.update)
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
                bytes=sum(spec.nbytes for spec in run.specs),
                seconds=round(time.monotonic() - began, 3),
                sha256=manifest.sha256,
                aggregation=str(rule),
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

    def _try_again(self, now: float) -> None:
        """Starts another attempt at a round whose deadline passed below the minimum."""
        run = self._run
        run.round = rounds.reopened(run.round, now=now)
        run.store.keep_attempt(run.round.number, run.round.attempt, now)
        run.note_change()
        run.log(
            "round_expired",
            round=run.round.number,
            attempt=run.round.attempt,
            received=sorted(run.round.received),
        )

    def _seconds_until_due(self, now: float) -> float | None:
        run = self._run
        moments = [rounds.next_moment(run.round, run.policy)]
        if run.round.min_reached_at is not None:  # then a site that falls silent may end the wait
            timeout_s = run.config.heart_beat_timeout_s
            moments += [
                seen + timeout_s
                for site, seen in run.last_seen.items()
                if site not in run.round.absent and seen + timeout_s > now
            ]
        known = [moment for moment in moments if moment is not None]
        return max(0.0, min(known) - now) if known else None

    def _give_back(self, update: rounds.Update) -> None:
        """Takes a spooled update that the disk has corrupted out of its round, so that the site
        makes it again.
        """
        run = self._run
        with run.changed:
            run.store.forget_update(update)
            run.reopen()
            run.closing = False
            run.note_change()
        run.log("update_lost", site=update.site, round=update.round)

    def _locate(self, name: str) -> tuple[pathlib.Path, str]:
        store, digests = self._run.store, self._run.store.globals()
        if name == tasks.LAST_GLOBAL and self._run.round is None:
            name = tasks.global_name(max(digests))
        elif name == tasks.BEST_GLOBAL and store.fixed_models():
            name = tasks.global_name(store.fixed_best())
        number = tasks.global_number(name)
        if (
            number is not None and number in digests and store.global_path(number).exists()
        ):  # an old one may have been removed
            return store.global_path(number), digests[number]
        if name in store.models():
            return store.model_path(name), store.models()[name][1]
        held = [
            tasks.global_name(number) for number in digests if store.global_path(number).exists()
        ]
        raise errors.UnknownModel(
            f"there is no model {name[:80]!r} here; there are {', '.join([*held, *store.models()])}"
        )

    def _all_confirmed(self) -> bool:
        # also a site whose updates came too late for every round: it would wait for a server that
        # has left
        return all(
            record.confirmed or record.evicted for record in self._run.store.sites().values()
        )
