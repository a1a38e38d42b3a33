"""An event log that cannot be changed unnoticed: every line holds the hash of the one before it, a round's end is signed.

    {"time": ..., "event": "aggregated", ..., "line": 17, "previous": <hash of line 16>, "hash": <of this line up to here>, "signature": ...}

`hash` is the SHA-256 of the line's own bytes with this key and what follows left out. Whoever changes, removes or inserts a
line has to rewrite all later ones, which a head noted elsewhere (`head`) and the signatures of the server's key give away.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federated import agenda, certificates, codec
from federated.aggregation import weighted_mean_of_sources
from federated.storage import Store
from federated.tensor_files import TensorFile, file_digest
from federated.weights import Digest
from runkit.events import EventLog

FIRST = "0" * 64  # what the first line has for `previous`
SIGNED = frozenset({"aggregated", "finished"})
_COUNTED = frozenset({"pushed", "aggregated"})
_LINE = re.compile(rb'(?P<text>\{.*), "hash": "(?P<hash>[0-9a-f]{64})"(, "signature": "(?P<signature>[A-Za-z0-9+/=]+)")?\}\n')


class AuditLog(EventLog):
    """Appends chained events. Thread-safe; a half line that a kill left behind is cut off, for it was never acknowledged.

    Args:
      path, clock: as in `EventLog`.
      key: PEM file of the key that signs the end of a round; None signs nothing.
      listeners: told every record once it is written, e.g. for TensorBoard.
    Raises:
      ValueError: for a log whose last line is not chained: it is of another program, or was changed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        clock: Callable[[], float] = time.time,
        key: str | os.PathLike | None = None,
        listeners: Sequence[Callable[[dict[str, Any]], None]] = (),
    ):
        super().__init__(path, clock=clock)
        self._key = None if key is None else serialization.load_pem_private_key(pathlib.Path(key).read_bytes(), None)
        self._listeners = tuple(listeners)
        self._mutex = threading.Lock()
        self._count, self._head, self._size = 0, FIRST, 0
        self._pending: tuple[str, dict[str, Any]] = ("", {})
        self._resume()

    @property
    def head(self) -> tuple[int, str]:
        """Returns (number of lines, hash of the last one)."""
        return self._count, self._head

    def append(self, event: str, **fields: Any) -> None:
        with self._mutex:
            if self.path.exists() and self.path.stat().st_size != self._size:
                os.truncate(self.path, self._size)  # a disk that was full took half a line
            super().append(event, **fields)
            self._count, (self._head, record) = self._count + 1, self._pending
            self._size = self.path.stat().st_size
        for listener in self._listeners:
            try:
                listener(record)
            except OSError as error:  # a picture of the run that cannot be drawn must not stop the run
                logging.warning("event=listener_failed reason=%s", error.strerror)

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
        with open(self.path, "rb+") as stream:
            last = b""
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                last = line
                self._count += 1
                self._size += len(line)
            stream.truncate(self._size)
        if last:
            found = _LINE.fullmatch(last)
            if not found:
                raise ValueError(f"{self.path}: line {self._count} is not chained; move the file away, or restore it from a backup")
            self._head = found["hash"].decode("ascii")


class BrokenChain(ValueError):
    """The log is not as it was written; `line` is the first that shows it."""

    def __init__(self, line: int, why: str):
        super().__init__(f"line {line}: {why}")
        self.line = line


def read_chain(path: str | os.PathLike, authority: x509.Certificate | None = None) -> Iterator[dict[str, Any]]:
    """Yields the records of a log, each checked. Half a line at the end is passed over: the log may be growing.

    Args:
      authority: of the federation; where given, the end of a round must be signed by the key of a server that it certified.
    Raises:
      BrokenChain: at the first line that was changed, moved, removed or inserted.
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
                raise BrokenChain(number, "was changed: its hash is another")
            record = json.loads(found["text"] + b"}")
            if record["previous"] != head or record["line"] != number:
                raise BrokenChain(number, f"does not follow line {number - 1}: lines were removed, inserted or moved")
            if authority is not None and record["event"] == "started":
                server = _certificate_of(record, authority)
            if authority is not None and record["event"] in SIGNED and not _signed_by(server, found["hash"], found["signature"]):
                raise BrokenChain(number, f"{record['event']!r} is not signed by the server's key")
            head = found["hash"].decode("ascii")
            yield {**record, "hash": head}


def make_good(log: AuditLog, store: Store) -> None:
    """Logs what the store holds and the log has lost: a kill or a power cut may come between the two."""
    have = {(r["event"], r.get("counts_in", r["round"]), r.get("site", ""), r["sha256"]) for r in log.read() if r["event"] in _COUNTED}
    models, counted = store.globals(), store.counted_updates()
    for number in sorted({*models, *counted} - {0}):
        updates = counted.get(number, [])
        if ("aggregated", number, "", models.get(number)) in have:
            continue
        for update in updates:
            if ("pushed", number, update.site, update.sha256) not in have:
                log.append(
                    "pushed",
                    site=update.site,
                    round=update.round,
                    counts_in=number,
                    num_examples=update.num_examples,
                    sha256=update.sha256,
                    made_good=True,
                )
        if number in models:
            log.append(
                "aggregated",
                round=number,
                sites={update.site: update.num_examples for update in updates},
                updates={update.site: update.sha256 for update in updates},
                sha256=models[number],
                made_good=True,
            )


def _certificate_of(record: dict[str, Any], authority: x509.Certificate) -> x509.Certificate:
    """Returns the certificate that a server announced at its start. Raises BrokenChain unless the authority issued it to a server."""
    try:
        certificate = x509.load_pem_x509_certificate(record["certificate"].encode("ascii"))
    except (KeyError, ValueError) as error:
        raise BrokenChain(record["line"], "a server started without a certificate") from error
    if not certificates.is_issued_by(certificate, authority) or not certificates.hosts_of(certificate):
        raise BrokenChain(record["line"], "the certificate of the server that started is not one that the authority gave to a server")
    return certificate


def _signed_by(certificate: x509.Certificate | None, digest: bytes, signature: bytes | None) -> bool:
    if certificate is None or not signature:
        return False
    try:
        certificate.public_key().verify(base64.b64decode(signature), digest, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclasses.dataclass(frozen=True)
class Verified:
    """What `verify` found in order."""

    lines: int
    head: str
    rounds: tuple[int, ...]  # whose models are in the store and have the logged digest
    recomputed: tuple[int, ...]  # of them, those whose updates are still kept and give the very model again
    pruned: tuple[int, ...]  # whose models the server did not keep


def verify(store: str | os.PathLike, authority: x509.Certificate | None = None, *, head: str = "") -> Verified:
    """Checks the log of a store, the models against the log, and recomputes every aggregation whose updates are still there.

    Reads only, and may run beside the server.

    Args:
      store: the server's folder, or a copy of it.
      authority: as in `read_chain`.
      head: a hash noted earlier, or its first digits; the log must still have that line.
    Raises:
      BrokenChain: naming the first line that is wrong, or that a model or an update contradicts.
    """
    store = pathlib.Path(store)
    path = store / "events.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the folder that the server calls its store")
    pushed: dict[tuple[int, str], tuple[str, int]] = {}
    rounds: list[int] = []
    recomputed: list[int] = []
    pruned: list[int] = []
    last, seen_head, lines, expected = FIRST, not head, 0, 1
    for record in read_chain(path, authority):
        line, last = record["line"], record["hash"]
        lines, seen_head = line, seen_head or last.startswith(head)
        if record["event"] == "pushed":
            pushed[record["counts_in"], record["site"]] = (record["sha256"], record["num_examples"])
        if record["event"] != "aggregated":
            continue
        number = record["round"]
        if number != expected:
            raise BrokenChain(line, f"aggregates round {number} where round {expected} is due")
        expected += 1
        for site, sha256 in record["updates"].items():
            if pushed.get((number, site)) != (sha256, record["sites"][site]):
                raise BrokenChain(line, f"round {number} counts an update of site {site!r} that the log did not take in")
        _check_model(store, record)
        if _model_path(store, number).exists():
            rounds.append(number)
            if _recompute(store, record):
                recomputed.append(number)
        else:
            pruned.append(number)
    if not seen_head:
        raise BrokenChain(lines, f"the log has no line with the noted hash {head[:16]}…: it was rewritten, or is of another run")
    return Verified(lines, last, tuple(rounds), tuple(recomputed), tuple(pruned))


def _model_path(store: pathlib.Path, number: int) -> pathlib.Path:
    return store / "global" / f"{agenda.global_name(number)}.safetensors"


def _check_model(store: pathlib.Path, record: dict[str, Any]) -> None:
    path = _model_path(store, record["round"])
    try:
        if path.exists():
            with TensorFile(path) as file:
                digest = file_digest(file)
        else:
            return
    except ValueError as error:
        raise BrokenChain(record["line"], f"its model cannot be read: {error}") from error
    if digest != record["sha256"]:
        raise BrokenChain(record["line"], f"{path.name} is not the model of round {record['round']} that was logged")


def _recompute(store: pathlib.Path, record: dict[str, Any]) -> bool:
    """Averages the kept updates of a round again; returns False where one is not kept any more."""
    number, line = record["round"], record["line"]
    folder = store / "kept" / agenda.global_name(number)
    # The file is named after the round that it was trained for; a late one counts in the next.
    found = {site: list(folder.glob(f"round_*.{site}.{sha256[:16]}.safetensors")) for site, sha256 in record["updates"].items()}
    if not all(found.values()):
        return False
    paths = {site: files[0] for site, files in found.items()}
    sources: dict[str, tuple[TensorFile, int]] = {}
    try:
        for site, path in paths.items():
            sources[site] = (TensorFile(path), record["sites"][site])
            if file_digest(sources[site][0]) != record["updates"][site]:
                raise BrokenChain(line, f"{path.name} is not the update of site {site!r} that was logged")
        sink = _DigestSink(next(iter(sources.values()))[0])
        rounding = {"finish": codec.rounding(codec.RoundingError())} if "rounding_error" in record else {}
        weighted_mean_of_sources(sources, sink, **rounding)
    except BrokenChain:
        raise
    except ValueError as error:
        raise BrokenChain(line, f"an update cannot be read: {error}") from error
    finally:
        for source, _ in sources.values():
            source.close()
    if sink.hex() != record["sha256"]:
        raise BrokenChain(line, f"the updates of round {number} do not average to the model that was logged")
    return True


class _DigestSink:
    """Takes an aggregate and keeps its digest only."""

    def __init__(self, like: TensorFile):
        self._digest = Digest(like.specs)

    def write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)

    def hex(self) -> str:
        return self._digest.hex()
