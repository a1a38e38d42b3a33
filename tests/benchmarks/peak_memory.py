"""Peak resident memory of a part of a process or of a tree of processes. Linux only."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable

_MIB = 2**20


def reset() -> float:
    """Resets the peak and returns the current resident memory in MiB."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_mib() -> float:
    """Returns the peak resident memory since `reset`, in MiB."""
    return _status("VmHWM")


def of_tree(action: Callable[[], object]) -> float:
    """Returns the peak memory of this process and its children while `action` runs, in MiB.

    Shared pages count once.
    """
    import psutil

    me, highest, done = psutil.Process(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            highest[0] = max(highest[0], total / _MIB)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return highest[0]


def _status(field: str) -> float:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
