"""An append-only log of what happened in a run: one JSON object a line, steady keys, safe to read
while it grows.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from runkit import atomic, private


class EventLog:
    """Appends events to a JSON-lines file.

    Args:
      path: the file; made with its folder at the first event.
      clock: seconds since the epoch; handed in so that tests decide the time.
    """

    def __init__(self, path: str | os.PathLike, *, clock: Callable[[], float] = time.time):
        self.path = pathlib.Path(path)
        self._clock = clock

    def append(self, event: str, **fields: Any) -> None:
        line = self._line({"time": round(self._clock(), 3), "event": event, **fields})
        private.make(self.path.parent)
        with atomic.naming(self.path), open(self.path, "a+b", opener=private.opener) as stream:
            if stream.tell() > 0:
                stream.seek(-1, os.SEEK_END)
                if (
                    stream.read(1) != b"\n"
                ):  # a power cut left half a line; it must not swallow this one
                    line = "\n" + line
            stream.write((line + "\n").encode("utf-8"))

    def _line(self, record: dict[str, Any]) -> str:
        return json.dumps(record, allow_nan=False)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields the events in order; a line cut short by a kill or a power cut is passed over."""
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue
