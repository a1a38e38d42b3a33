"""How much memory this process has had at most."""

from __future__ import annotations

import pathlib
import resource
import sys


def peak_bytes() -> int:
    """Returns the highest resident memory of this process, in bytes.

    On Linux from its own status: `ru_maxrss` begins with the peak of the process that started this
    one.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
