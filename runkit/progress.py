"""Progress of long work: a bar on a terminal, or a log line every minute and at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, Generic, Protocol, TextIO, TypeVar, overload

import tqdm

from runkit import printable

PREFIX = "progress: "  # starts every line, so that a log can be searched for it
# An environment variable, in seconds; set by a program that shows another one's progress.
EVERY = "PROGRESS_EVERY_S"
_EVERY_S = 60.0


Item = TypeVar("Item")


class Bar(Protocol[Item]):
    """The part of tqdm's interface that this product uses."""

    def __enter__(self) -> Bar[Item]: ...
    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None: ...
    def __iter__(self) -> Iterator[Item]: ...
    def update(self, count: float = 1, /) -> object: ...
    def set_postfix(self, values: Mapping[str, object], /, refresh: bool = True) -> None: ...
    def set_postfix_str(self, text: str, /, refresh: bool = True) -> None: ...
    def close(self) -> None: ...


@overload
def bar(
    iterable: Iterable[Item],
    *,
    total: float | None = None,
    what: str,
    unit: str = "it",
    initial: int = 0,
) -> Bar[Item]: ...
@overload
def bar(
    iterable: None = None,
    *,
    total: float | None = None,
    what: str,
    unit: str = "it",
    initial: int = 0,
) -> Bar[None]: ...
def bar(
    iterable: Iterable | None = None,
    *,
    total: float | None = None,
    what: str,
    unit: str = "it",
    initial: int = 0,
) -> Bar:
    """Returns a progress bar with rate and time left, over `iterable` or advanced by `update`.

    On a terminal it is tqdm's, redrawn up to ten times a second; elsewhere (a log, CI) it prints
    whole lines, see `Lines`.
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


class Lines(Generic[Item]):
    """Reports progress in log lines: at the end, and before it at most every `every_s` seconds.

    A `Bar`. Each line is written in one call, so that the lines of several programs that share a
    file do not mix.
    """

    def __init__(
        self,
        iterable: Iterable[Item] | None = None,
        *,
        total: float | None = None,
        what: str,
        unit: str = "it",
        initial: int = 0,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ):
        self._iterable, self._what, self._unit = iterable, what, unit
        self._every_s, self._clock = every_s, clock
        self._total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self._stream = stream or sys.stderr
        self._done, self._initial = float(initial), float(initial)
        self._postfix: str | Mapping[str, object] = ""
        self._start, self._closed = clock(), False
        self._next = self._start + every_s

    def __enter__(self) -> Lines[Item]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Item]:
        try:
            for item in self._iterable or ():
                yield item
                self.update()
        finally:
            self.close()

    def update(self, count: float = 1) -> None:
        self._done += count
        self._write_if_due()

    def set_postfix(self, values: Mapping[str, object], refresh: bool = True) -> None:
        self.set_postfix_str(values, refresh)

    def set_postfix_str(self, text: str | Mapping[str, object], refresh: bool = True) -> None:
        del refresh  # for tqdm: a log line is never redrawn
        self._postfix = text
        self._write_if_due()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._write(f"in {elapsed(self._clock() - self._start)}")

    def _write_if_due(self) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every_s
        rate = (self._done - self._initial) / max(now - self._start, 1e-9)
        words = [f"{rate:.3g} {self._unit}/s"]
        if rate and self._total is not None:
            words.append(f"{elapsed((self._total - self._done) / rate)} left")
        self._write(", ".join(words))

    def _write(self, words: str) -> None:
        done = f"{self._done:g}" if self._total is None else f"{self._done:g} of {self._total:g}"
        unit = self._unit + "s" * ((self._done if self._total is None else self._total) != 1)
        # Formatted only here: training sets the postfix at every step.
        postfix = (
            self._postfix
            if isinstance(self._postfix, str)
            else ", ".join(f"{name}={value}" for name, value in self._postfix.items())
        )
        parts = (f"{self._what}: {done} {unit}", words, printable.text(postfix, limit=200))
        self._stream.write(f"{PREFIX}{', '.join(filter(None, parts))}\n")
        self._stream.flush()


def _every_s() -> float:
    try:
        return float(os.environ.get(EVERY, _EVERY_S))
    except ValueError:
        return _EVERY_S


def elapsed(seconds: float, *, unit: bool = False) -> str:
    """Returns e.g. "2:05" or "1:02:05"; with `unit`, "2:05 min" or "1:02:05 h"."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    return f"{text} {'h' if hours else 'min'}" if unit else text
