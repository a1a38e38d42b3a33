"""An event log in which changes show: each line has the hash of the one before, rounds are signed.

    {"time": ..., "event": "aggregated", ..., "line": 17, "previous": <hash of line 16>,
     "hash": <hash of this line up to here>, "signature": ...}

`hash` is the SHA-256 of the line's bytes before the key "hash". To change, remove or insert a line,
all later lines have to be rewritten. That shows in the signatures by the server's key, and in a
hash of the last line (`head`) that was recorded elsewhere.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from absl import logging
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federated.rounds.log_lines import LogLine, StartedLine
from federated.security import certificates
from federated.storage.database import GIVEN
from federated.storage.store import Store
from runkit import atomic, formats
from runkit.events import EventLog

FORMAT = 1  # stated by "started"; raise it when earlier releases can no longer read a new log
FIRST = "0" * 64  # `previous` of the first line
SIGNED = frozenset({"aggregated", "round_discarded", "finished"})
# On disk before the next line is written: an operator may note the hash of a signed line.
SYNCED = SIGNED | {"started"}
_LINE = re.compile(
    rb'(?P<text>\{.*), "hash": "(?P<hash>[0-9a-f]{64})"'
    rb'(, "signature": "(?P<signature>[A-Za-z0-9+/=]+)")?\}\n'
)
Listener = Callable[[LogLine], None]  # called with every line once it is written


class AuditLog(EventLog):
    """Appends chained events. Thread-safe.

    Half a line that a kill left behind is cut off: its event was never acknowledged.

    Args:
      path, clock: as in `EventLog`.
      key: PEM file of the elliptic-curve key that signs the end of a round; None signs nothing.
      listeners: called with every record once it is written, e.g. for TensorBoard.
    Raises:
      ValueError: if the last line is not chained, because another program wrote the log or it was
        changed; or if the key is of another kind.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        clock: Callable[[], float] = time.time,
        key: str | os.PathLike | None = None,
        listeners: Sequence[Listener] = (),
    ):
        super().__init__(path, clock=clock)
        self._key = None if key is None else _signing_key(pathlib.Path(key))
        self._listeners = tuple(listeners)
        self._mutex = threading.Lock()
        self._count, self._head, self._size = 0, FIRST, 0
        self._pending: tuple[str, dict[str, Any]] = ("", {})
        self._resume()

    @property
    def head(self) -> tuple[int, str]:
        """The number of lines, and the hash of the last one."""
        return self._count, self._head

    def read(self) -> Iterator[LogLine]:
        """Yields the events in order, without one whose sync failed: the next line replaces it."""
        with self._mutex:
            count = self._count
        return cast(Iterator[LogLine], itertools.islice(super().read(), count))

    def append(self, event: str, **fields: Any) -> None:
        with self._mutex:
            if self.path.exists() and self.path.stat().st_size != self._size:
                os.truncate(self.path, self._size)  # a full disk took half a line
            super().append(event, **fields)
            if event in SYNCED:
                self._sync()
            self._count, (self._head, record) = self._count + 1, self._pending
            self._size = self.path.stat().st_size
        for listener in self._listeners:
            try:
                listener(cast(LogLine, record))
            except Exception as error:  # a listener that fails must not stop the run
                reason = (
                    error.strerror
                    if isinstance(error, OSError)
                    else f"{type(error).__name__}: {error}"
                )
                logging.warning("event=listener_failed reason=%s", reason)

    def _sync(self) -> None:
        with atomic.naming(self.path), open(self.path, "rb+") as stream:
            os.fsync(stream.fileno())

    def _line(self, record: dict[str, Any]) -> str:
        record = {**record, "line": self._count + 1, "previous": self._head}
        text = json.dumps(record, allow_nan=False)
        digest = hashlib.sha256(text[:-1].encode("utf-8")).hexdigest()
        self._pending = digest, record
        signed = ""
        if self._key is not None and record["event"] in SIGNED:
            signature = self._key.sign(digest.encode("ascii"), ec.ECDSA(hashes.SHA256()))
            signed = f', "signature": "{base64.b64encode(signature).decode("ascii")}"'
        return f'{text[:-1]}, "hash": "{digest}"{signed}}}'

    def _resume(self) -> None:
        if not self.path.exists():
            return
        damage = None
        try:
            for record in read_chain(self.path):
                self._count, self._head = record["line"], record["hash"]
        except BrokenChain as error:
            damage = error
        with open(self.path, "rb") as stream:
            self._size = sum(len(stream.readline()) for _ in range(self._count))
            rest = stream.read()
        if damage is not None:
            self._set_aside(rest, damage)
        if rest:
            os.truncate(self.path, self._size)
        if damage is not None:
            self.append("log_cut", lines=rest.count(b"\n"), reason=str(damage))

    def _set_aside(self, rest: bytes, damage: BrokenChain) -> None:
        """Keeps the end of the log that a power cut has damaged beside it; what it told is logged
        again from the store.

        Raises:
          ValueError: where it cannot be the work of a power cut: such a line is synced, with all
            that is before it, before the next is written.
        """
        earlier = rest[: rest.rstrip(b"\n").rfind(b"\n") + 1]
        if not self._count or any(b'"event": "%s"' % name.encode() in earlier for name in SYNCED):
            raise ValueError(
                f"{self.path}: line {damage.line} is not chained; move the file away, or restore "
                "it from a backup"
            )
        aside = self.path.with_name(f"{self.path.stem}.damaged-{damage.line}.jsonl")
        atomic.write_bytes(aside, rest)
        logging.warning(
            "event=log_cut line=%d lines=%d kept_in=%s", damage.line, rest.count(b"\n"), aside.name
        )


class BrokenChain(ValueError):
    """The log, or what it is about, is not as it was written; `line` is the first to show it."""

    def __init__(self, line: int, why: str):
        super().__init__(f"line {line}: {why}")
        self.line = line


def read_chain(
    path: str | os.PathLike, authority: x509.Certificate | None = None
) -> Iterator[LogLine]:
    """Yields the records of a log after checking each; skips half a line at the end.

    Args:
      authority: certificate of the federation's authority; if given, the end of a round must be
        signed by the key of a server that it certified.
    Raises:
      BrokenChain: at the first line that was changed, moved, removed or inserted.
      ValueError: if a newer release wrote the log.
    """
    head, server = FIRST, None
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            found = _LINE.fullmatch(line)
            if not found:
                raise BrokenChain(number, "is not a chained event")
            if hashlib.sha256(found["text"]).hexdigest().encode("ascii") != found["hash"]:
                raise BrokenChain(number, "was changed: its hash does not fit")
            record = json.loads(found["text"] + b"}")
            if record["previous"] != head or record["line"] != number:
                raise BrokenChain(
                    number,
                    f"does not follow line {number - 1}: lines were removed, inserted or moved",
                )
            if record["event"] == "started":
                formats.refuse_newer(path, record.get("format"), FORMAT)
            if authority is not None and record["event"] == "started":
                server = _certificate_of(record, authority)
            if (
                authority is not None
                and record["event"] in SIGNED
                and not _signed_by(server, found["hash"], found["signature"])
            ):
                raise BrokenChain(number, f"{record['event']!r} is not signed by the server's key")
            head = found["hash"].decode("ascii")
            yield cast(LogLine, {**record, "hash": head})


def backfill(log: EventLog, store: Store) -> None:
    """Logs what the store holds and the log lacks after a kill, a power cut or a full disk."""
    known = _replayed(cast(Iterable[LogLine], log.read()))
    globals_, counted, models = store.globals(), store.counted_updates(), store.models()
    rule_states = store.rule_states()
    beyond = [number for number in known.aggregated if number not in globals_]
    if beyond:
        first = min(beyond)
        log.append(
            "round_discarded",
            round=first,
            back_to=first - 1,
            sha256=globals_.get(first - 1),
            backfilled=True,
        )
        # Replayed once more: an update logged before this line no longer counts, so it is logged
        # again if the store has it.
        known = _replayed(cast(Iterable[LogLine], log.read()))
    for site, record in store.sites().items():
        if record.num_examples and known.num_examples.get(site) != record.num_examples:
            log.append("login", site=site, num_examples=record.num_examples, backfilled=True)
    for number in sorted({*globals_, *counted} - {0}):
        updates = counted.get(number, [])
        if number in globals_ and known.aggregated.get(number) == globals_[number]:
            continue
        for update in updates:
            if (number, update.site, update.sha256) not in known.pushed:
                log.append(
                    "pushed",
                    site=update.site,
                    round=update.round,
                    counts_in=number,
                    num_examples=update.num_examples,
                    sha256=update.sha256,
                    backfilled=True,
                )
        if number in globals_:
            log.append(
                "aggregated",
                round=number,
                sites={update.site: update.num_examples for update in updates},
                updates={update.site: update.sha256 for update in updates},
                sha256=globals_[number],
                aggregation=store.aggregation,
                **({"rule_state_sha256": rule_states[number]} if number in rule_states else {}),
                backfilled=True,
            )
    for site, record in store.sites().items():
        if record.evicted and site not in known.evicted:
            gone = sorted(
                name for name, owner in known.owners.items() if owner == site and name not in models
            )
            log.append("evicted", site=site, dropped=None, models=gone, backfilled=True)
        elif not record.evicted and site in known.evicted:
            log.append("readmitted", site=site, backfilled=True)
    scores = store.scores()
    scored_by = sorted(scores.get(max(scores, default=0), {}))
    for model, by_site in scores.items():
        for site, found in by_site.items():
            if known.scores.get((model, site)) != found:
                log.append("scored", site=site, model=model, scores=found, backfilled=True)
    for name, (site, sha256) in models.items():
        if known.published.get(name) != sha256 and site == GIVEN:
            log.append("given", model=name, sha256=sha256)
        elif known.published.get(name) != sha256:
            log.append("published", site=site, model=name, sha256=sha256, backfilled=True)
    if store.fixed_models() and not known.fixed and not store.only_evaluates:
        log.append(
            "models_fixed",
            models=list(store.fixed_models()),
            best_round=store.fixed_best(),
            scored_by=scored_by,
            backfilled=True,
        )
    for site, (count, sha256) in store.row_digests().items():
        if known.rows.get(site) != sha256:
            log.append("rows", site=site, rows=count, sha256=sha256, backfilled=True)
    if store.finished and not known.finished:
        log.append(
            "finished",
            rounds=max(globals_),
            sites=sorted(store.took_part()),
            **(
                {}
                if store.fixed_models()
                else {"best_round": store.best_round(), "scored_by": scored_by}
            ),
            backfilled=True,
        )


@dataclasses.dataclass
class _Known:
    """What a log says was received and not discarded later, by digest."""

    aggregated: dict[int, str] = dataclasses.field(default_factory=dict)  # round -> global model
    # (round in which it counts, site, update)
    pushed: set[tuple[int, str, str]] = dataclasses.field(default_factory=set)
    published: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> model
    owners: dict[str, str] = dataclasses.field(default_factory=dict)  # name of a model -> site
    rows: dict[str, str] = dataclasses.field(default_factory=dict)  # site -> rows
    evicted: set[str] = dataclasses.field(default_factory=set)
    num_examples: dict[str, int] = dataclasses.field(default_factory=dict)
    # (model, site) -> scores
    scores: dict[tuple[int, str], dict[str, float]] = dataclasses.field(default_factory=dict)
    fixed: bool = False  # which models are evaluated
    finished: bool = False


def _replayed(records: Iterable[LogLine]) -> _Known:
    known = _Known()
    for record in records:
        if record["event"] == "aggregated":
            known.aggregated[record["round"]] = record["sha256"]
        elif record["event"] == "pushed":
            known.pushed.add(
                (record.get("counts_in", record["round"]), record["site"], record["sha256"])
            )
        elif record["event"] == "published":
            known.published[record["model"]] = record["sha256"]
            known.owners[record["model"]] = record["site"]
        elif record["event"] == "given":
            known.published[record["model"]] = record["sha256"]
        elif record["event"] == "evicted":
            known.evicted.add(record["site"])
            for name in record.get("models", ()):
                known.published.pop(name, None)
        elif record["event"] == "readmitted":
            known.evicted.discard(record["site"])
        elif record["event"] == "rows":
            known.rows[record["site"]] = record.get("sha256", "")
        elif record["event"] == "login":
            known.num_examples[record["site"]] = record["num_examples"]
        elif record["event"] == "scored":
            known.scores[record["model"], record["site"]] = record.get("scores", {})
        elif record["event"] == "models_fixed":
            known.fixed = True
        elif record["event"] == "finished":
            known.finished = True
        elif record["event"] == "round_discarded":
            first = record["round"]
            known.scores = {key: found for key, found in known.scores.items() if key[0] < first}
            known.fixed = False
            known.aggregated = {
                number: sha256 for number, sha256 in known.aggregated.items() if number < first
            }
            known.pushed = {entry for entry in known.pushed if entry[0] < first}
            known.rows = {}
    return known


def _signing_key(path: pathlib.Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: not an elliptic-curve key; use the key that the kit came with")
    return key


def _certificate_of(record: StartedLine, authority: x509.Certificate) -> x509.Certificate:
    """Returns the certificate that a server logged at its start.

    Raises:
      BrokenChain: unless the authority issued it to a server.
    """
    try:
        certificate = x509.load_pem_x509_certificate(record["certificate"].encode("ascii"))
    except (KeyError, ValueError) as error:
        raise BrokenChain(record["line"], "a server started without a certificate") from error
    if not certificates.is_issued_by(certificate, authority) or not certificates.hosts_of(
        certificate
    ):
        raise BrokenChain(
            record["line"],
            "the authority did not issue the certificate of this server to a server",
        )
    return certificate


def _signed_by(
    certificate: x509.Certificate | None, digest: bytes, signature: bytes | None
) -> bool:
    key = None if certificate is None else certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not signature:
        return False
    try:
        key.verify(base64.b64decode(signature), digest, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
