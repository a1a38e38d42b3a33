"""An event log in which changes show: each line has the hash of the one before, rounds are signed.

    {"time": ..., "event": "aggregated", ..., "line": 17, "previous": <hash of line 16>,
     "hash": <hash of this line up to here>, "signature": ...}

`hash` is the SHA-256 of the line's bytes before the key "hash". To change, remove or insert a line,
all later lines have to be rewritten. That shows in the signatures by the server's key, and in a
hash of the last line (`head`) that was recorded elsewhere.

A log that has grown to a given size goes on in a new segment, see `runkit.log_segments`. The chain
goes on with it: the first line of a segment has the hash of the last line of the one before. That
line is signed, and also holds what the segment builds on (`carried`), so that the oldest segments
can be removed if the operator wants that; it then says so.
"""

from __future__ import annotations

import base64
import contextlib
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

from federated.audit.carried import Carried
from federated.rounds.log_lines import ContinuedLine, LogLine, RemovedSegments
from federated.security import certificates
from federated.storage.database import GIVEN
from federated.storage.store import Store
from runkit import atomic, durable, formats, log_segments
from runkit.events import EventLog, records
from runkit.log_segments import CONTINUED

# Stated by "started" and by the first line of a segment; raise it when earlier releases can no
# longer read a new log.
FORMAT = 2
_ONE_SEGMENT = 1  # format of a log in one segment, which earlier releases read too
FIRST = "0" * 64  # `previous` of the first line
SIGNED = frozenset({"aggregated", "round_discarded", "finished", CONTINUED})
# On disk before the next line is written: an operator may note the hash of a signed line.
SYNCED = SIGNED | {"started"}
SEGMENT_BYTES = 16 * 2**20
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
      segment_bytes: size at which the log goes on in a new segment.
      keep_segments: number of newest full segments that stay, 0 for all.
    Raises:
      ValueError: if the last line is not chained, because another program wrote the log or it was
        changed; if a segment is missing; or if the key is of another kind.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        clock: Callable[[], float] = time.time,
        key: str | os.PathLike | None = None,
        listeners: Sequence[Listener] = (),
        segment_bytes: int = SEGMENT_BYTES,
        keep_segments: int = 0,
    ):
        super().__init__(path, clock=clock)
        self._key = None if key is None else _signing_key(pathlib.Path(key))
        self._listeners = tuple(listeners)
        self._mutex = threading.Lock()
        self._count, self._head, self._size = 0, FIRST, 0
        self._pending: tuple[str, dict[str, Any]] = ("", {})
        self._carried = Carried()
        self._segment, self._before = 1, 0  # number of the segment, and of lines before it
        self._ends: dict[int, tuple[int, str]] = {}  # of full segments: last line, its hash
        self._removed: RemovedSegments | None = None  # what the log says is no longer kept
        self._segment_bytes, self._keep_segments = segment_bytes, keep_segments
        self._rotate_at = segment_bytes
        self._unsynced_name = False  # whether a power cut may bring the earlier segment back
        self._resume()

    @property
    def head(self) -> tuple[int, str]:
        """The number of lines, and the hash of the last one."""
        return self._count, self._head

    @property
    def format(self) -> int:
        """The number of the format that the log has now."""
        return _ONE_SEGMENT if self._segment == 1 else FORMAT

    def read(self) -> Iterator[LogLine]:
        """Yields the events in order, without one whose sync failed: the next line replaces it.

        Events of segments that are no longer kept are left out.
        """
        with contextlib.ExitStack() as held:
            with self._mutex:  # a segment may be added and removed while this one reads
                if not self.path.exists():
                    return
                stream = held.enter_context(open(self.path, "rb"))
                count = self._count - self._before
                earlier = log_segments.before(self.path, self._segment)
                # Held open only if they may be removed meanwhile.
                files = [
                    held.enter_context(open(path, "rb")) if self._keep_segments else None
                    for path in earlier
                ]
            for path, file in zip(earlier, files, strict=True):
                yield from cast(Iterator[LogLine], records(log_segments.lines(path, file)))
            yield from cast(Iterator[LogLine], itertools.islice(records(stream), count))

    def append(self, event: str, **fields: Any) -> None:
        written: list[LogLine] = []
        with self._mutex:
            if self.path.exists() and self.path.stat().st_size != self._size:
                os.truncate(self.path, self._size)  # a full disk took half a line
            if self._size >= self._rotate_at:
                written += self._rotate()
            super().append(event, **fields)
            if event in SYNCED:
                self._sync()
            written.append(self._note(self._pending))
            self._size = self.path.stat().st_size
        for listener in self._listeners:
            for record in written:
                self._tell(listener, record)

    @staticmethod
    def _tell(listener: Listener, record: LogLine) -> None:
        try:
            listener(record)
        except Exception as error:  # a listener that fails must not stop the run
            reason = (
                error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            )
            logging.warning("event=listener_failed reason=%s", reason)

    def _note(self, pending: tuple[str, dict[str, Any]]) -> LogLine:
        """Counts a line that is written, and returns it."""
        self._count, (self._head, fields) = self._count + 1, pending
        record = cast(LogLine, fields)
        self._carried.take(record)
        return record

    def _sync(self) -> None:
        with atomic.naming(self.path), open(self.path, "rb+") as stream:
            os.fsync(stream.fileno())
        if self._unsynced_name:
            durable.sync_directory(self.path.parent)
            self._unsynced_name = False

    def _rotate(self) -> list[LogLine]:
        """Goes on in a new segment; returns its first record, nothing if the disk forbids it now.

        At each moment the whole log is on disk: the full segment is compressed and synced beside
        the log before the new one takes its name.
        """
        try:
            self._sync()
            log_segments.archive(self.path, self._segment)
            content = self._opening()
            self._replace(content)
        except OSError as error:
            logging.warning("event=log_not_rotated reason=%s", error.strerror)
            self._rotate_at = self._size + max(1, self._segment_bytes // 16)
            return []
        self._ends[self._segment] = self._count, self._head
        self._before, self._segment = self._count, self._segment + 1
        opening = self._note(self._pending)
        self._removed = self._pending[1].get("removed")
        self._size, self._rotate_at = len(content), len(content) + self._segment_bytes
        try:
            self._sync()
            self._remove()
        except OSError as error:  # the next signed line is synced with the name, or not written
            logging.warning("event=log_segment_left reason=%s", error.strerror)
        return [opening]

    def _opening(self) -> bytes:
        """Returns the first line of the next segment."""
        gone, removed = self._segment - self._keep_segments, self._removed
        if self._keep_segments and gone > (removed["segments"] if removed else 0):
            lines, head = self._ends[gone]
            removed = {"segments": gone, "lines": lines, "head": head}
        fields = {
            "time": round(self._clock(), 3),
            "event": CONTINUED,
            "segment": self._segment + 1,
            "format": FORMAT,
            **({"removed": removed} if removed else {}),
            "carried": self._carried.to_json(),
        }
        return (self._line(fields) + "\n").encode("utf-8")

    def _replace(self, content: bytes) -> None:
        self._unsynced_name = True
        try:
            with atomic.replacing(self.path, sync_folder=False) as temporary:
                temporary.write_bytes(content)
        except OSError:
            with open(self.path, "rb") as stream:
                if stream.read(len(content) + 1) != content:
                    raise

    def _remove(self) -> None:
        """Removes the segments that the log says are no longer kept."""
        if self._removed is None:
            return
        for number, path in log_segments.archived(self.path).items():
            if number <= self._removed["segments"]:
                path.unlink(missing_ok=True)
                logging.info("event=log_segment_removed segment=%d", number)

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
        full, opening = log_segments.archived(self.path), b""
        if self.path.exists():
            with open(self.path, "rb") as stream:
                opening = stream.readline()
        if full and not opening.endswith(b"\n"):
            raise ValueError(
                f"{self.path}: is missing, but {len(full)} earlier segments of it are in "
                f"{self.path.with_suffix('')}; restore it from a backup, or move them away"
            )
        if not self.path.exists():
            return
        log_segments.remove_partial(self.path)
        damage = None
        try:
            for record in read_chain(self.path):
                if record["event"] == "log_continued":
                    self._continued(record, active=record["hash"].encode() in opening)
                self._count, self._head = record["line"], record["hash"]
                self._carried.take(record)
        except BrokenChain as error:
            damage = error
        with open(self.path, "rb") as stream:
            self._size = sum(len(stream.readline()) for _ in range(self._count - self._before))
            rest = stream.read()
        if damage is not None:
            self._set_aside(rest, damage)
        if rest:
            os.truncate(self.path, self._size)
        self._rotate_at = self._segment_bytes + (len(opening) if self._before else 0)
        if damage is not None:
            self.append("log_cut", lines=rest.count(b"\n"), reason=str(damage))

    def _continued(self, record: ContinuedLine, *, active: bool) -> None:
        """Takes over what the first line of a segment says."""
        if self._count == 0 and record["line"] > 1:
            self._carried = Carried.from_json(record["carried"])
        self._ends[record["segment"] - 1] = record["line"] - 1, record["previous"]
        self._removed = record.get("removed")
        if active:
            self._segment, self._before = record["segment"], record["line"] - 1

    def _set_aside(self, rest: bytes, damage: BrokenChain) -> None:
        """Keeps the end of the log that a power cut has damaged beside it; what it told is logged
        again from the store.

        Raises:
          ValueError: where it cannot be the work of a power cut: such a line is synced, with all
            that is before it, before the next is written.
        """
        earlier = rest[: rest.rstrip(b"\n").rfind(b"\n") + 1]
        if damage.segment is not None:
            raise ValueError(f"{self.path}: {damage}") from damage
        if self._count == self._before or any(
            b'"event": "%s"' % name.encode() in earlier for name in SYNCED
        ):
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
    """The log, or what it is about, is not as it was written; `line` is the first to show it.

    `segment` is the file of the full segment at fault, None for any other fault.
    """

    def __init__(self, line: int, why: str, *, segment: str | None = None):
        where = f" (in {segment})" if segment and segment not in why else ""
        super().__init__(f"line {line}: {why}{where}")
        self.line, self.segment = line, segment


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
    path = pathlib.Path(path)
    head, last, server = FIRST, 0, None
    name: str | None = None  # of the full segment that is read
    ends: dict[int, tuple[int, str]] = {}  # of segments: last line, its hash
    for number, segment, line in _segments(path):
        before, name = name, None if segment is None else _name(segment)
        place = {"segment": name}
        first = number is not None
        due = last + 1
        if not line.endswith(b"\n"):
            if segment is None:
                return
            raise BrokenChain(due, "is not whole", **place)
        record, found = _checked(line, due, place)
        if first and number != 1 and last == 0:  # the segments before it are not kept
            head, due = record["previous"], record["line"]
        if record["previous"] != head or record["line"] != due:
            ended = f", with which {before} ends" if first and before else ""
            raise BrokenChain(
                due,
                f"does not follow line {last}{ended}: lines were removed, inserted or moved",
                **place,
            )
        opening = record if record["event"] == "log_continued" else None
        if first and number != (opening["segment"] if opening else 1):
            raise BrokenChain(due, f"does not begin segment {number} of the log", **place)
        if opening:
            ends[opening["segment"] - 1] = last or due - 1, head
            removed = opening.get("removed")
            told = ends.get(removed["segments"]) if removed else None
            if removed and told not in (None, (removed["lines"], removed["head"])):
                raise BrokenChain(due, "says that other lines were removed than are missing")
        if record["event"] == "started" or record["event"] == "log_continued":
            formats.refuse_newer(path, record.get("format"), FORMAT)
        if authority is not None and record["event"] == "started":
            server = _certificate_of(record.get("certificate", ""), due, authority)
        if authority is not None and opening and last == 0:
            server = _certificate_of(opening["carried"].get("certificate", ""), due, authority)
        if (
            authority is not None
            and record["event"] in SIGNED
            and not _signed_by(server, found["hash"], found["signature"])
        ):
            raise BrokenChain(
                due, f"{record['event']!r} is not signed by the server's key", **place
            )
        head, last = found["hash"].decode("ascii"), due
        yield cast(LogLine, {**record, "hash": head})


def _checked(
    line: bytes, number: int, place: dict[str, str | None]
) -> tuple[LogLine, re.Match[bytes]]:
    """Returns the record of a line and its parts. Raises BrokenChain unless its hash fits."""
    found = _LINE.fullmatch(line)
    if not found:
        raise BrokenChain(number, "is not a chained event", **place)
    if hashlib.sha256(found["text"]).hexdigest().encode("ascii") != found["hash"]:
        raise BrokenChain(number, "was changed: its hash does not fit", **place)
    return cast(LogLine, json.loads(found["text"] + b"}")), found


def _segments(path: pathlib.Path) -> Iterator[tuple[int | None, pathlib.Path | None, bytes]]:
    """Yields the lines of a log with (number of the segment at its first line, else None; file of
    the full segment, None for the newest).

    Raises:
      BrokenChain: if a segment is missing that the log does not say was removed, or is damaged.
    """
    with open(path, "rb") as stream:  # first: a running server may replace it by its next segment
        opening = stream.readline()
        full = log_segments.archived(path)
        newest, removed = _opened_by(opening, full)
        start = newest
        while start - 1 in full:
            start -= 1
        if start - 1 > removed:
            missing = log_segments.archive_path(path, start - 1)
            raise BrokenChain(
                _first_line(opening if start == newest else next(log_segments.lines(full[start]))),
                f"follows segment {_name(missing)}, which is missing; put it back from a backup",
                segment=_name(missing),
            )
        for number in range(start, newest):
            last = 0
            try:
                for count, line in enumerate(log_segments.lines(full[number])):
                    last = max(last, _first_line(line))
                    yield (None if count else number), full[number], line
            except ValueError as error:
                raise BrokenChain(last + 1, str(error), segment=_name(full[number])) from error
            if not last:
                raise BrokenChain(last + 1, "the segment is empty", segment=_name(full[number]))
        for count, line in enumerate(itertools.chain([opening] if opening else [], stream)):
            yield (None if count else newest), None, line


def _opened_by(line: bytes, full: dict[int, pathlib.Path]) -> tuple[int, int]:
    """Returns the number of the newest segment by its first line, and how many it says were
    removed. A line that was changed says nothing: it is then looked at where it is due.
    """
    try:
        record, _ = _checked(line, 1, {})
    except BrokenChain:
        return max(full, default=0) + 1, max(min(full, default=1) - 1, 0)
    if record["event"] != "log_continued":
        return 1, 0
    removed = record.get("removed")
    return record["segment"], removed["segments"] if removed else 0


def _name(segment: pathlib.Path) -> str:
    return f"{segment.parent.name}/{segment.name}"


def _first_line(line: bytes) -> int:
    """Returns the number that a line states, 0 if it states none."""
    found = re.search(rb', "line": (\d{1,15}), "previous": "', line)
    return int(found[1]) if found else 0


def backfill(log: EventLog, store: Store) -> None:
    """Logs what the store holds and the log lacks after a kill, a power cut or a full disk."""
    known = _replayed(cast(Iterable[LogLine], log.read()))
    globals_, counted, models = store.globals(), store.counted_updates(), store.models()
    rule_states = store.rule_states()
    beyond = [number for number in known.aggregated if number not in globals_]
    if beyond:
        first = min(*beyond, max(globals_, default=0) + 1)
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
    for number in sorted({*globals_, *counted} - {*range(known.removed_rounds + 1)}):
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
            if model <= known.removed_scores and (model, site) not in known.scores:
                continue  # it was logged in a segment that is no longer kept
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
    removed_rounds: int = 0  # whose lines are in segments that are no longer kept
    removed_scores: int = -1  # the newest model whose scores may be there

    @classmethod
    def carried(cls, record: ContinuedLine) -> _Known:
        """Begins with the first line of a log whose earlier segments are no longer kept."""
        found = Carried.from_json(record["carried"])
        return cls(
            aggregated={found.round: found.sha256 or ""} if found.round else {},
            pushed={(number, site, sha) for (number, site), (_, sha, _) in found.pushed.items()},
            published={
                **{name: sha256 for name, (_, sha256) in found.published.items()},
                **found.given,
            },
            owners={name: site for name, (site, _) in found.published.items()},
            rows=dict(found.rows),
            evicted=set(found.evicted),
            num_examples=dict(found.num_examples),
            fixed=found.fixed,
            finished=found.finished,
            removed_rounds=found.round,
            removed_scores=found.round,
        )


def _replayed(records: Iterable[LogLine]) -> _Known:
    known = _Known()
    for number, record in enumerate(records):
        if record["event"] == "log_continued":
            if number == 0:
                known = _Known.carried(record)
        elif record["event"] == "aggregated":
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
            known.removed_rounds = min(known.removed_rounds, first - 1)
            known.removed_scores = min(known.removed_scores, first - 1)
    return known


def _signing_key(path: pathlib.Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: not an elliptic-curve key; use the key that the kit came with")
    return key


def _certificate_of(pem: str, line: int, authority: x509.Certificate) -> x509.Certificate:
    """Returns the certificate that a server logged at its start.

    Args:
      pem: the certificate, "" if none was logged.
      line: number of the line that has it.

    Raises:
      BrokenChain: unless the authority issued it to a server.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError as error:
        raise BrokenChain(line, "a server started without a certificate") from error
    if not certificates.is_issued_by(certificate, authority) or not certificates.hosts_of(
        certificate
    ):
        raise BrokenChain(
            line, "the authority did not issue the certificate of this server to a server"
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
