"""The run as the server leads it: rounds, scores, published models and rows, with a lock, a clock and a store.

Any number of threads call the methods that stand for a site's request; one thread drives (`drive`), and it alone aggregates,
selects and decides that a phase is over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from federated import agenda, codec, errors, privacy, rounds, selection
from federated import plan as plans
from federated.aggregation import weighted_mean_of_sources
from federated.credentials import CredentialBook, Sessions
from federated.exchange import PROTOCOL, Offer, Receipt, Session
from federated.storage import Store
from federated.tensor_files import MAX_BYTES, TensorFile, TensorFileWriter
from federated.weights import Digest, TensorSpec, check_declaration, check_same
from runkit import atomic
from runkit.events import EventLog

SCORE = "dice"  # the key of a site's scores by which global models are compared
_MAX_EXAMPLES = 2**28  # times a float32, still exact in float64
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_GLOBAL_NAME = re.compile(r"round_(\d{3,})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What the operator of a server decides. Names as in Clara Train, whose users read them at sight."""

    num_rounds: int
    local_epochs: int = 10
    min_num_clients: int = 2
    max_num_clients: int = 2
    wait_after_min_clients_s: float = 10.0
    heart_beat_timeout_s: float = 600.0  # silent for longer, a site is no longer waited for while enough others remain
    cross_site_evaluation: bool = True  # after the last round: publish models, evaluate them everywhere, collect rows
    token_lifetime_s: float = 24 * 3600.0
    poll_s: float = 20.0  # a site that waits asks again after this long; each waiting site holds a thread meanwhile
    linger_s: float = 60.0  # after the end: how long sites that have not heard of it may still ask
    host: str = "0.0.0.0"
    port: int = 8443  # 0: any free one, written to <store>/address.json and kept across restarts

    def __post_init__(self):
        _ = self.policy
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; expected 1 to 65535, or 0 for any free one")
        if self.local_epochs < 1:
            raise ValueError(f"local_epochs is {self.local_epochs}; expected at least 1")
        for name in ("heart_beat_timeout_s", "token_lifetime_s", "poll_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected seconds, more than 0")

    @property
    def policy(self) -> rounds.Policy:
        return rounds.Policy(
            min_num_clients=self.min_num_clients,
            max_num_clients=self.max_num_clients,
            num_rounds=self.num_rounds,
            wait_after_min_clients_s=self.wait_after_min_clients_s,
        )


@dataclasses.dataclass(frozen=True)
class ServerSummary:
    """How a server ended. `finished` is False when it was stopped first; the same command goes on then."""

    finished: bool
    rounds: int  # aggregated
    sites: tuple[str, ...]  # that took part
    best_round: int | None
    rows: int


class Coordinator:
    """Leads one run.

    Args:
      store: an open store whose run has been opened.
      config: the operator's decisions.
      credentials: which sites there are.
      events: log of what happened.
      clock: seconds since the epoch; decides deadlines and expiry.
    """

    def __init__(
        self, store: Store, config: ServerConfig, credentials: CredentialBook, events: EventLog, *, clock: Callable[[], float] = time.time
    ):
        self._store, self._config, self._policy = store, config, config.policy
        self._credentials, self._events, self._clock = credentials, events, clock
        self._changed = threading.Condition(threading.RLock())
        self._version = 0
        self._stopping = False
        self._aggregating = False
        self._sessions = Sessions(store, lifetime_s=config.token_lifetime_s, clock=clock, run=store.run_id)
        self._plan = store.plan
        self._round = store.open_round(config.policy)
        self._last_seen = dict.fromkeys(store.sites(), clock())
        with TensorFile(store.global_path(0)) as initial:
            self._specs, self._metadata = initial.specs, initial.metadata
        if self._round is not None:
            events.append("round_opened", round=self._round.number, received=sorted(self._round.received))

    # Requests of sites.

    def login(
        self, site: str, credential: str, plan: dict, num_examples: int, *, certificate: str = "", protocol: int = PROTOCOL
    ) -> Session:
        """Admits a site whose plan is the server's.

        Raises:
          WrongCredential, VersionDiffers, PlanDiffers, FederationFull, UpdateRefused.
        """
        self._credentials.check(site, credential)
        self._credentials.check_certificate(certificate)
        if protocol != PROTOCOL:
            raise errors.VersionDiffers(
                f"site {site!r} speaks version {protocol} of the weight exchange, the server {PROTOCOL}; install the same release at both ends"
            )
        differing = plans.differences(self._plan, plan)
        if differing:
            raise errors.PlanDiffers(f"site {site!r} has another plan: {'; '.join(differing)}; start it with the settings of the server")
        if not 1 <= num_examples <= _MAX_EXAMPLES:
            raise errors.UpdateRefused(f"site {site!r} has {num_examples} training examples; expected 1 to {_MAX_EXAMPLES}")
        with self._changed:
            sites = self._store.sites()
            if site not in sites and len(sites) >= self._policy.max_num_clients:
                raise errors.FederationFull(
                    f"site {site!r} is one too many: {', '.join(sites)} take part and max_num_clients is {self._policy.max_num_clients}"
                )
            self._store.enrol(site, num_examples)
            token, expires_at = self._sessions.open(site, certificate)
            self._last_seen[site] = self._clock()
            run = self._store.run_id
            self._note_change()
        self._log("login", site=site, num_examples=num_examples)
        return Session(
            token=token,
            expires_at=expires_at,
            run=run,
            plan_fingerprint=plans.fingerprint(self._plan),
            num_rounds=self._config.num_rounds,
            local_epochs=self._config.local_epochs,
            poll_s=self._config.poll_s,
            heart_beat_s=min(60.0, self._config.heart_beat_timeout_s / 4),
        )

    def site_of(self, token: str, certificate: str | None = None) -> str:
        """Returns whose token it is. Raises SessionExpired, CertificateRefused."""
        with self._changed:
            site = self._sessions.site_of(token, certificate)
            self._credentials.check_certificate(certificate or "")
            if site not in self._credentials.sites:
                raise errors.SessionExpired(f"site {site!r} has no part in this federation any more; ask the server's operator for a kit")
            self._last_seen[site] = self._clock()
            return site

    def next_task(self, site: str, *, wait_s: float = 0.0, asking: Callable[[], bool] = lambda: True) -> agenda.Task:
        """Returns what `site` is to do; while that is to wait, answers only after `wait_s`, or when `asking` turns false."""
        deadline = time.monotonic() + wait_s
        with self._changed:
            while True:
                task = agenda.next_task(self._progress(), site)
                remaining = deadline - time.monotonic()
                if task.kind != "wait" or self._stopping or remaining <= 0 or not asking():
                    break
                self._changed.wait(remaining)
            if task.kind == "finished" and not self._store.sites()[site].confirmed:
                self._store.confirm(site)
                self._note_change()
                self._log("site_finished", site=site)
            return task

    def wake(self) -> None:
        """Makes every waiting request look again whether its caller is still there."""
        with self._changed:
            self._changed.notify_all()

    def open_model(self, site: str, name: str) -> tuple[TensorFile, str]:
        """Returns (open file, digest) of a model: "round_000", "FL_global", "FL_best_global" or a published one. Raises UnknownModel."""
        with self._changed:
            path, sha256 = self._locate(name)
            return TensorFile(path), sha256

    def note_pulled(self, site: str, name: str, *, nbytes: int, seconds: float) -> None:
        """Logs that `site` received the whole of a model."""
        self._log("pulled", site=site, model=name, bytes=nbytes, seconds=round(seconds, 3))

    def report_scores(self, site: str, model: int, scores: Mapping[str, float]) -> None:
        """Records what `site` scored on global model number `model`. Raises UnknownModel, PrivacyRefused."""
        checked = privacy.check_metrics(scores, what=f"scores of site {site!r}")
        with self._changed:
            if model not in self._store.globals():
                raise errors.UnknownModel(f"there is no global model {model} to score; the last one is {max(self._store.globals())}")
            self._store.record_scores(model, site, checked)
            self._note_change()
        self._log("scored", site=site, model=model, scores=checked)

    def push(self, site: str, offer: Offer, chunks: Iterable[codec.Chunk]) -> Receipt:
        """Takes an update: checks what is announced, receives, checks what came, syncs it to disk, records it, and only then returns.

        Raises:
          StaleUpdate, UpdateRefused, IncompatibleWeights, DamagedTransfer, PrivacyRefused, StorageTrouble: and nothing changed.
        """
        began = time.monotonic()
        metrics = privacy.check_metrics(offer.metrics, what=f"metrics of site {site!r}")
        update = rounds.Update(site, offer.round, offer.num_examples, offer.sha256)
        receipt = Receipt(site, agenda.global_name(offer.round), offer.sha256)
        with self._changed:
            if self._store.update(site, offer.round) == update:
                return receipt  # the same bytes again: its receipt was lost on the way
            self._check_round_takes(update)
        if not 1 <= offer.num_examples <= _MAX_EXAMPLES:
            raise errors.UpdateRefused(
                f"site {site!r} sent num_examples {offer.num_examples} for round {offer.round}; expected 1 to {_MAX_EXAMPLES}"
            )
        with self._receiving(site, offer, chunks, f"update of site {site!r} for round {offer.round}") as received, self._changed:
            self._check_round_takes(update)
            now = self._clock()
            state = rounds.accept(self._round, update, policy=self._policy, now=now)
            self._store.keep_update(received, update, metrics, now=now)
            self._round = state
            self._note_change()
        nbytes, seconds = sum(spec.nbytes for spec in offer.specs), round(time.monotonic() - began, 3)
        self._log("pushed", site=site, round=offer.round, num_examples=offer.num_examples, bytes=nbytes, seconds=seconds, metrics=metrics)
        return receipt

    def _check_round_takes(self, update: rounds.Update) -> None:
        if self._round is None:
            raise errors.StaleUpdate(f"site {update.site!r} sent round {update.round}, the last round is over; ask for the next task")
        if self._aggregating and update.round == self._round.number:
            raise errors.StaleUpdate(f"site {update.site!r} sent round {update.round}, which has just closed; ask for the next task")
        rounds.accept(self._round, update, policy=self._policy, now=self._clock())

    def publish(self, site: str, offer: Offer, chunks: Iterable[codec.Chunk]) -> Receipt:
        """Takes a model of `site` for cross-site evaluation; as durable as `push`.

        Raises:
          ModelRefused, IncompatibleWeights, UpdateRefused, DamagedTransfer, StorageTrouble.
        """
        began, name = time.monotonic(), offer.model
        receipt = Receipt(site, name, offer.sha256)
        if not _MODEL_NAME.fullmatch(name) or _GLOBAL_NAME.fullmatch(name) or name in (agenda.LAST_GLOBAL, agenda.BEST_GLOBAL):
            raise errors.ModelRefused(
                f"model name {name[:80]!r} of site {site!r} is reserved or malformed; use letters, digits, '_', '-', at most 64"
            )

        def check_name() -> bool:
            """Returns whether the very model is there already."""
            owner, sha256 = self._store.models().get(name, (site, ""))
            if owner != site:
                raise errors.ModelRefused(
                    f"model {name!r} of site {site!r} has the name of a model of site {owner!r}; begin the name with the site's"
                )
            if sha256 != offer.sha256 and self._store.fixed_models():
                raise errors.ModelRefused(f"model {name!r} of site {site!r} came after the models to evaluate were fixed")
            return sha256 == offer.sha256

        with self._changed:
            if check_name():
                return receipt
        with self._receiving(site, offer, chunks, f"model {name!r} of site {site!r}") as received, self._changed:
            check_name()
            self._store.keep_model(received, name, site, offer.sha256)
            self._note_change()
        nbytes = sum(spec.nbytes for spec in offer.specs)
        self._log("published", site=site, model=name, bytes=nbytes, seconds=round(time.monotonic() - began, 3))
        return receipt

    def declare_models(self, site: str, names: Sequence[str]) -> None:
        """Records that `site` has published all it will. Raises UnknownModel for a name that has not arrived."""
        with self._changed:
            held = {name for name, (owner, _) in self._store.models().items() if owner == site}
            missing = sorted(set(names) - held)
            if missing:
                raise errors.UnknownModel(f"site {site!r} declares {', '.join(missing)}, which it has not published; publish first")
            if not self._store.fixed_models():
                self._store.declare(site, names)
                self._note_change()
        self._log("declared", site=site, models=sorted(names))

    def submit_rows(self, site: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Records the per-case rows of `site`. Raises PrivacyRefused, UnknownModel, UnknownSite."""
        with self._changed:
            models = self._store.fixed_models()
            if not models:
                raise errors.UnknownModel(f"site {site!r} sent rows before the models to evaluate were fixed; ask for the next task")
            if site not in self._store.participants():
                raise errors.UnknownSite(f"site {site!r} sent rows but no update in any round; only sites that took part evaluate")
            checked = privacy.check_rows(rows, site=site, models=models)
            self._store.keep_rows(site, checked)
            self._note_change()
        self._log("rows", site=site, rows=len(checked))

    # The driving thread.

    def drive(self) -> bool:
        """Leads the run until it is finished (True) or `stop` is called (False).

        Raises:
          OSError: where the store cannot be written; a restart goes on from what was confirmed.
        """
        while True:
            with self._changed:
                if self._stopping or self._store.finished:
                    return self._store.finished
                version = self._version
            wait_s = self.advance()
            with self._changed:
                self._changed.wait_for(lambda seen=version: self._version != seen or self._stopping, wait_s)

    def advance(self) -> float | None:
        """Does all that is due; returns seconds until something may be due by the clock alone, None if nothing will be."""
        while True:
            with self._changed:
                now = self._clock()
                if self._round is None:
                    return self._advance_closing(now)
                if not rounds.is_over(self._round, self._policy, now=now):
                    moment = rounds.closes_at(self._round, self._policy)
                    return None if moment is None else max(0.0, moment - now)
                self._aggregating, closed = True, self._round
            try:
                self._close_round(closed)
            finally:
                self._aggregating = False

    def wait_confirmed(self) -> None:
        """Returns when every participant knows that the run is finished, after `linger_s` at the latest."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._all_confirmed(), self._config.linger_s)

    def stop(self) -> None:
        """Makes `drive` and every waiting request return."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stops, and closes the store under the lock: SQLite must not be closed beneath a thread that still answers a site."""
        with self._changed:
            self.stop()
            self._store.close()

    def summary(self) -> ServerSummary:
        with self._changed:
            record = self._store.folder / "selection.json"
            return ServerSummary(
                finished=self._store.finished,
                rounds=max(self._store.globals()),
                sites=tuple(sorted(self._store.participants())),
                best_round=atomic.read_json(record)["best_round"] if record.exists() else None,
                rows=sum(map(len, self._store.rows().values())),
            )

    def _close_round(self, closed: rounds.Round) -> None:
        """Aggregates without the lock: sites go on scoring, waiting and beating meanwhile; late updates are refused."""
        began = time.monotonic()
        metadata = {**self._metadata, "round": str(closed.number)}
        with contextlib.ExitStack() as opened:
            sources: dict[str, tuple[_Verified, int]] = {}
            try:
                for site, update in closed.received.items():
                    source = opened.enter_context(_Verified(self._store.update_path(update), update))
                    sources[site] = (source, update.num_examples)
                with (
                    atomic.replacing(self._store.global_path(closed.number)) as temporary,
                    TensorFileWriter(temporary, self._specs, metadata) as writer,
                ):
                    weighted_mean_of_sources(sources, writer)
                    for source, _ in sources.values():
                        source.check()
                    sha256 = writer.finish()
            except _Spoilt as spoilt:
                self._give_back(spoilt.update)
                return
        with self._changed:
            self._store.close_round(closed, sha256)
            self._round = self._store.open_round(self._policy)
            self._aggregating = False
            self._note_change()
            self._log(
                "aggregated",
                round=closed.number,
                sites={site: update.num_examples for site, update in sorted(closed.received.items())},
                bytes=sum(spec.nbytes for spec in self._specs),
                seconds=round(time.monotonic() - began, 3),
                sha256=sha256,
            )
            self._select()
            if self._round is not None:
                self._log("round_opened", round=self._round.number, received=[])

    def _give_back(self, update: rounds.Update) -> None:
        """Takes a spooled update that the disk has spoilt out of its round, so that the site makes it again."""
        with self._changed:
            self._store.forget_update(update)
            self._round = self._store.open_round(self._policy)
            self._aggregating = False
            self._note_change()
        self._log("update_lost", site=update.site, round=update.round)

    def _advance_closing(self, now: float) -> float | None:
        """Moves on after the last round: selection, fixing the models to evaluate, the end."""
        if self._store.finished:
            return None
        progress = self._progress()
        expected, next_silent = self._expected(progress.participants, now)
        if not progress.models:
            if not expected <= progress.scored or (self._config.cross_site_evaluation and not expected <= progress.declared):
                return next_silent
            best = self._select()
            names = [*sorted(self._store.models()), agenda.LAST_GLOBAL, agenda.BEST_GLOBAL]
            if self._config.cross_site_evaluation:
                self._store.fix_models(names, best)
                self._note_change()
                self._log("models_fixed", models=names, best_round=best)
                progress = self._progress()
        if not self._config.cross_site_evaluation or expected <= progress.reported:
            self._store.write_rows()
            self._store.finish()
            self._note_change()
            self._log("finished", rounds=self._config.num_rounds, sites=sorted(progress.participants))
            return None
        return next_silent

    def _expected(self, participants: frozenset[str], now: float) -> tuple[frozenset[str], float | None]:
        """Returns (whom a closing phase waits for, seconds until that may change).

        A silent site is no longer waited for, but never so that fewer than the minimum remain: with minimum = maximum no
        clock decides.
        """
        silent_at = {site: self._last_seen.get(site, now) + self._config.heart_beat_timeout_s for site in participants}
        heard = frozenset(site for site in participants if silent_at[site] > now)
        if len(heard) < self._policy.min_num_clients:
            return participants, None
        return heard, min(silent_at[site] for site in heard) - now

    def _select(self) -> int:
        """Compares what has been scored so far, keeps the best model, and returns its number."""
        scores, records = self._store.scores(), self._store.sites()
        chosen = selection.select(
            {model: {site: values[SCORE] for site, values in by_site.items() if SCORE in values} for model, by_site in scores.items()},
            {site: record.num_examples for site, record in records.items()},
        )
        last = max(self._store.globals())
        if chosen is None:
            self._store.keep_selection(last, {"score": None, "reason": "no site scored a model; the last one stands in", "models": []})
            return last
        table = [
            {"round": model, "mean": chosen.mean.get(model), "worst": chosen.worst.get(model), "sites": by_site}
            for model, by_site in scores.items()
        ]
        self._store.keep_selection(
            chosen.best,
            {
                "score": SCORE,
                "mean": chosen.mean[chosen.best],
                "worst": chosen.worst[chosen.best],
                "on_sites": list(chosen.sites),
                "models": table,
            },
        )
        self._log("selected", best_round=chosen.best, mean=chosen.mean[chosen.best], worst=chosen.worst[chosen.best])
        return chosen.best

    # Shared.

    def _progress(self) -> agenda.Progress:
        last = self._policy.num_rounds
        return agenda.Progress(
            open_round=self._round,
            num_rounds=last,
            closing=self._aggregating,
            participants=self._store.participants(),
            scored=self._store.scored(last),
            declared=self._store.declared() if self._config.cross_site_evaluation else self._store.participants(),
            models=self._store.fixed_models(),
            reported=self._store.reported(),
            finished=self._store.finished,
        )

    def _locate(self, name: str) -> tuple[pathlib.Path, str]:
        digests = self._store.globals()
        if name == agenda.LAST_GLOBAL and self._round is None:
            name = agenda.global_name(self._policy.num_rounds)
        elif name == agenda.BEST_GLOBAL and self._store.fixed_models():
            name = agenda.global_name(self._store.fixed_best())
        number = _GLOBAL_NAME.fullmatch(name)
        if number and int(number[1]) in digests:
            return self._store.global_path(int(number[1])), digests[int(number[1])]
        if name in self._store.models():
            return self._store.model_path(name), self._store.models()[name][1]
        raise errors.UnknownModel(
            f"there is no model {name[:80]!r} yet; there are {', '.join([*map(agenda.global_name, digests), *self._store.models()])}"
        )

    def _receiving(self, site: str, offer: Offer, chunks: Iterable[codec.Chunk], what: str) -> _Incoming:
        check_declaration(offer.specs, max_bytes=MAX_BYTES)
        check_same(self._specs, offer.specs, what=what)
        return _Incoming(self._store.incoming_path(), offer, chunks, site, self._metadata)

    def _all_confirmed(self) -> bool:
        return all(record.confirmed for site, record in self._store.sites().items() if site in self._store.participants())

    def _note_change(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _log(self, event: str, **fields: Any) -> None:
        self._events.append(event, **fields)
        logging.info("event=%s %s", event, " ".join(f"{key}={value}" for key, value in fields.items()))


class _Spoilt(Exception):
    """A spooled update is no longer what was received."""

    def __init__(self, update: rounds.Update):
        super().__init__(update)
        self.update = update


class _Verified:
    """A spooled update that is read once from beginning to end, and told afterwards whether it was what had been received."""

    def __init__(self, path: pathlib.Path, update: rounds.Update):
        self._update = update
        try:
            self._file = TensorFile(path)
        except ValueError as error:
            raise _Spoilt(update) from error
        self.specs = self._file.specs
        self._digest = Digest(self.specs)

    def read_bytes(self, spec: TensorSpec, offset: int, size: int) -> bytes:
        try:
            data = self._file.read_bytes(spec, offset, size)
        except ValueError as error:
            raise _Spoilt(self._update) from error
        self._digest.update(data)
        return data

    def check(self) -> None:
        if self._digest.hex() != self._update.sha256:
            raise _Spoilt(self._update)

    def __enter__(self) -> _Verified:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Incoming:
    """A model while it arrives: enters with a whole, checked and synced file, and leaves nothing behind unless it was moved away."""

    def __init__(self, path: pathlib.Path, offer: Offer, chunks: Iterable[codec.Chunk], site: str, metadata: Mapping[str, str]):
        self._path, self._offer, self._chunks, self._site = path, offer, chunks, site
        self._metadata = {**metadata, "site": site}

    def __enter__(self) -> pathlib.Path:
        try:
            codec.receive_to_file(self._offer.specs, self._offer.sha256, self._chunks, self._path, metadata=self._metadata)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self._path

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._path.unlink(missing_ok=True)
        if isinstance(error, (OSError, sqlite3.Error)):
            raise errors.StorageTrouble(
                f"the server could not store what site {self._site!r} sent ({getattr(error, 'strerror', None) or type(error).__name__}); "
                "free space or mend its folder, the site tries again by itself"
            ) from error
