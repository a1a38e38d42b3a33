"""Progress of long work: a bar on a terminal, plain lines in a log file: one when a stage ends, and
one for each minute before.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

import tqdm

from runkit import printable

PREFIX = "progress: "  # of every line; whoever reads a log finds them by it
# environment variable: seconds between two lines; a program that shows another one's progress sets
# it
EVERY = "PROGRESS_EVERY_S"
_EVERY_S = 60.0


def bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    what: str,
    unit: str = "it",
    initial: int = 0,
) -> Any:
    """Returns a bar over `iterable` (or a manual one), with rate and time left.

    On a terminal it is tqdm's and redraws ten times a second; elsewhere (a log, CI) it prints whole
    lines, see `Lines`.
    """
    what = printable.text(what, limit=100)
    if not sys.stderr.isatty():
        return Lines(
            iterable, total=total, what=what, unit=unit, initial=initial, every_s=_every_s()
        )
    return tqdm.tqdm(
        iterable,
        total=total,
        desc=what,
        unit=unit,
        initial=initial,
        dynamic_ncols=True,
        mininterval=0.1,
        file=sys.stderr,
    )


class Lines:
    """Says how far a stage is, in lines of a log: at its end, and before that at most once in
    `every_s` seconds.

    Offers what the product uses of tqdm: iteration, `update`, the postfixes, `close`, and use as a
    context manager. A line is written in one piece with its end, so that programs that write into
    one file do not mix theirs.
    """

    def __init__(
        self,
        iterable: Iterable | None = None,
        *,
        total: int | None = None,
        what: str,
        unit: str = "it",
        initial: int = 0,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ):
        self._iterable, self._what, self._unit, self._every_s, self._clock = (
            iterable,
            what,
            unit,
            every_s,
            clock,
        )
        self._total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
        self._stream = stream or sys.stderr
        self._done, self._initial = float(initial), float(initial)
        self._postfix: str | Mapping[str, Any] = ""
        self._start, self._closed = clock(), False
        self._next = self._start + every_s

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self._iterable or ():
                yield item
                self.update()
        finally:
            self.close()

    def update(self, count: float = 1) -> None:
        self._done += count
        self._tell_in_time()

    def set_postfix(self, values: Mapping[str, Any], refresh: bool = True) -> None:
        self.set_postfix_str(values, refresh)

    def set_postfix_str(self, text: str | Mapping[str, Any], refresh: bool = True) -> None:
        del refresh  # tqdm's: a line is never drawn again
        self._postfix = text
        self._tell_in_time()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._tell(f"in {_time(self._clock() - self._start)}")

    def _tell_in_time(self) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every_s
        rate = (self._done - self._initial) / max(now - self._start, 1e-9)
        words = [f"{rate:.3g} {self._unit}/s"]
        if rate and self._total is not None:
            words.append(f"{_time((self._total - self._done) / rate)} left")
        self._tell(", ".join(words))

    def _tell(self, words: str) -> None:
        far = f"{self._done:g}" if self._total is None else f"{self._done:g} of {self._total:g}"
        # put together here only: a training sets it at every step
        after = (
            self._postfix
            if isinstance(self._postfix, str)
            else ", ".join(f"{name}={value}" for name, value in self._postfix.items())
        )
        line = ", ".join(
            filter(
                None, (f"{self._what}: {far} {self._unit}", words, printable.text(after, limit=200))
            )
        )
        self._stream.write(f"{PREFIX}{line}\n")
        self._stream.flush()


def _every_s() -> float:
    try:
        return float(os.environ.get(EVERY, _EVERY_S))
    except ValueError:
        return _EVERY_S


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
