"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

from runkit import printable


def bar(iterable: Iterable | None = None, *, total: int | None = None, what: str, unit: str = "it", initial: int = 0) -> Any:
    """Returns a tqdm bar over `iterable` (or a manual one), rate and time left included.

    On a terminal it redraws ten times a second; elsewhere (a log, CI) it prints at most every 15 seconds.
    """
    interactive = sys.stderr.isatty()
    return tqdm.tqdm(
        iterable,
        total=total,
        desc=printable.text(what, limit=100),
        unit=unit,
        initial=initial,
        dynamic_ncols=interactive,
        mininterval=0.1 if interactive else 15.0,
        maxinterval=10.0 if interactive else 60.0,
        file=sys.stderr,
    )
