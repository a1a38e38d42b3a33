"""An append-only log of a run's events: one JSON object per line, safe to read while it grows."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

from runkit import atomic, log_segments, private


class EventLog:
    """Appends events to a JSON-lines file.

    Args:
      path: the file; created with its folder at the first event.
      clock: returns seconds since the epoch; a parameter so that tests can set the time.
    """

    def __init__(self, path: str | os.PathLike, *, clock: Callable[[], float] = time.time):
        self.path = pathlib.Path(path)
        self._clock = clock

    def append(self, event: str, **fields: Any) -> None:
        """Appends one event with its time; `fields` must be JSON values, without NaN."""
        line = self._line({"time": round(self._clock(), 3), "event": event, **fields})
        with atomic.naming(self.path), self._opened() as stream:
            if stream.tell() > 0:
                stream.seek(-1, os.SEEK_END)
                # A power cut may have left half a line; do not append this event to it.
                if stream.read(1) != b"\n":
                    line = "\n" + line
            stream.write((line + "\n").encode("utf-8"))

    def _opened(self) -> IO[bytes]:
        try:
            return open(self.path, "a+b", opener=private.opener)
        except FileNotFoundError:
            private.make(self.path.parent)
            return open(self.path, "a+b", opener=private.opener)

    def _line(self, record: dict[str, Any]) -> str:
        return json.dumps(record, allow_nan=False)

    def read(self) -> Iterator[Mapping[str, Any]]:
        """Yields the events in order, skipping lines that a kill or a power cut left incomplete.

        Full segments of the log (see `log_segments`) come first.

        Raises:
          ValueError: naming a full segment that is damaged.
        """
        if not self.path.exists():
            return
        with open(self.path, "rb") as stream:
            first = stream.readline()
            for path in log_segments.before(self.path, log_segments.segment_of(first)):
                yield from records(log_segments.lines(path))
            yield from records([first])
            yield from records(stream)


def records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yields the events in lines, skipping incomplete lines."""
    for line in lines:
        try:
            yield json.loads(line.decode("utf-8", "replace"))
        except json.JSONDecodeError:
            continue
