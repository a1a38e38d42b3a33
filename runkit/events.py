"""An append-only log of a run's events: one JSON object per line, safe to read while it grows."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

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
        self._add(event, fields)

    def _add(self, event: str, fields: Mapping[str, Any]) -> int:
        """Appends one event; returns the size of the file."""
        line = self._line({"time": round(self._clock(), 3), "event": event, **fields})
        data = (line + "\n").encode("utf-8")
        try:
            file = self._opened()
            try:
                size = os.fstat(file).st_size
                # A power cut may have left half a line; do not append this event to it.
                if size and os.pread(file, 1, size - 1) != b"\n":
                    data = b"\n" + data
                written = os.write(file, data)
                while written < len(data):  # when a disk becomes full, a part is written first
                    written += os.write(file, data[written:])
            finally:
                os.close(file)
        except OSError as error:
            atomic.naming(self.path).name(error)
            raise
        return size + written

    def _opened(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            private.make(self.path.parent)
            return private.opener(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)

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
