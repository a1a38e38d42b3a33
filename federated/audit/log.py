"""A tamper-evident event log: each line has the hash of the previous one, rounds are signed.

    {"time": ..., "event": "aggregated", ..., "line": 17, "previous": <hash of line 16>,
     "hash": <hash of this line up to here>, "signature": ...}

`hash` is the SHA-256 of the line's bytes before the key "hash". To change, remove or insert a line,
all later lines have to be rewritten. That is detected by the signatures of the server's key, and by
a hash of the last line (`head`) that was recorded elsewhere.

A log that has grown to a given size continues in a new segment, see `runkit.log_segments`. The
chain continues across segments: the first line of a segment has the hash of the last line of the
previous one. That first line is signed, and also holds the state on which the segment builds
(`carried`), so that the operator may have the oldest segments removed; the line then says so.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from absl import logging
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federated.audit.carried import Carried
from federated.audit.chain import FIRST, FORMAT, SIGNED, BrokenChain, read_chain
from federated.rounds.log_lines import ContinuedLine, LogLine, RemovedSegments
from runkit import atomic, durable, log_segments
from runkit.events import EventLog, records
from runkit.log_segments import CONTINUED

ONE_SEGMENT = 1  # format of a log in one segment, which earlier releases read too
# Synced before the next line is written, because an operator may record the hash of a signed line.
SYNCED = SIGNED | {"started"}
SEGMENT_BYTES = 16 * 2**20
Listener = Callable[[LogLine], None]  # called with every line once it is written


class AuditLog(EventLog):
    """Appends chained events. Thread-safe.

    Half a line that a kill left behind is cut off, because its event was never acknowledged.

    Args:
      path, clock: as in `EventLog`.
      key: PEM file of the elliptic-curve key that signs the end of a round; None signs nothing.
      listeners: called with every record once it is written, e.g. for TensorBoard.
      on_new_segment: called with the first record of every further segment.
      segment_bytes: size at which the log continues in a new segment.
      keep_segments: number of newest full segments to keep, 0 for all.
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
        on_new_segment: Listener = lambda record: None,
        segment_bytes: int = SEGMENT_BYTES,
        keep_segments: int = 0,
    ):
        super().__init__(path, clock=clock)
        self._key = None if key is None else _signing_key(pathlib.Path(key))
        self._listeners, self._on_new_segment = tuple(listeners), on_new_segment
        self._mutex = threading.Lock()
        self._count, self._head, self._size = 0, FIRST, 0
        self._pending: tuple[str, dict[str, Any]] = ("", {})
        self._carried = Carried()
        self._segment, self._before = 1, 0  # number of the segment, and of lines before it
        self._ends: dict[int, tuple[int, str]] = {}  # full segment -> last line and its hash
        self._removed: RemovedSegments | None = None  # what the log says has been removed
        self._segment_bytes, self._keep_segments = segment_bytes, keep_segments
        self._rotate_at = segment_bytes
        self._unsynced_name = False  # whether a power cut may restore the earlier segment
        self._resume()

    @property
    def head(self) -> tuple[int, str]:
        """The number of lines, and the hash of the last one."""
        return self._count, self._head

    @property
    def format(self) -> int:
        """The current format number of the log."""
        return ONE_SEGMENT if self._segment == 1 else FORMAT

    def read(self) -> Iterator[LogLine]:
        """Yields the events in order, except one whose sync failed, which the next line replaces.

        Events of removed segments are left out.
        """
        with contextlib.ExitStack() as held:
            with self._mutex:  # a segment may be added and removed while this method reads
                if not self.path.exists():
                    return
                stream = held.enter_context(open(self.path, "rb"))
                count = self._count - self._before
                earlier = log_segments.before(self.path, self._segment)
                # Keep them open only if they may be removed meanwhile.
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
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.path).st_size != self._size:
                    os.truncate(self.path, self._size)  # a full disk took half a line
            if self._size >= self._rotate_at:
                written += self._rotate()
            size = self._add(event, fields)
            if event in SYNCED:
                self._sync()
            written.append(self._note(self._pending))
            self._size = size
        if len(written) > 1:
            self._tell(self._on_new_segment, written[0])
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
        """Counts a line that was written, and returns it."""
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
        """Continues in a new segment; returns its first record, or [] if the disk prevents it.

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
        except OSError as error:  # the next signed line syncs the name too, or is not written
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
        """Removes the segments that the log declares as removed."""
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
        """Adopts the state in the first line of a segment."""
        if self._count == 0 and record["line"] > 1:
            self._carried = Carried.from_json(record["carried"])
        self._ends[record["segment"] - 1] = record["line"] - 1, record["previous"]
        self._removed = record.get("removed")
        if active:
            self._segment, self._before = record["segment"], record["line"] - 1

    def _set_aside(self, rest: bytes, damage: BrokenChain) -> None:
        """Moves the end of the log that a power cut has damaged into a file beside it.

        Its events are logged again from the store.

        Raises:
          ValueError: if a power cut cannot be the cause, because the damaged line was synced, with
            everything before it, before the next one was written.
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


def _signing_key(path: pathlib.Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(atomic.read_bytes(path), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: not an elliptic-curve key; use the key that the kit came with")
    return key
