"""Waiting for other programs."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable

_LOOK_S = 0.02


def until(
    condition: Callable[[], bool],
    process: subprocess.Popen,
    *others: subprocess.Popen,
    told: Callable[[], str],
    seconds: float = 60.0,
) -> None:
    """Waits for a condition that one of the processes makes true.

    Args:
      told: returns the message for the case that it does not become true.
    Raises:
      AssertionError: if one of the processes ends first, or the time is over.
    """
    processes, deadline = (process, *others), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {told()}"
        if any(each.poll() is not None for each in processes):
            assert condition(), f"a program ended early: {told()}"  # its last deed may be the one
            return
        look_again(*processes)


def look_again(*processes: subprocess.Popen) -> None:
    """Waits a moment for each process, or less if it ends."""
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S)
