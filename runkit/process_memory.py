"""The peak memory of this process."""

from __future__ import annotations

import pathlib
import resource
import sys


def peak_bytes() -> int:
    """Returns the peak resident memory of this process, in bytes.

    On Linux it is read from /proc: there, `ru_maxrss` starts at the peak of the parent process.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
