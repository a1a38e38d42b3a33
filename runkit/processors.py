"""The number of processors that this process may use, which may be fewer than the machine has."""

from __future__ import annotations

import math
import os
import pathlib

_V2 = pathlib.Path("sys/fs/cgroup/cpu.max")
_V1 = pathlib.Path("sys/fs/cgroup/cpu")


def available(root: str | os.PathLike = "/") -> int:
    """Returns the number of processors for this process, at least 1.

    It is the smallest of the machine's number, the process's affinity (taskset, a batch system) and
    the limit of a container (cgroup 1 or 2); half a processor counts as one.

    Args:
      root: the folder with `sys/fs/cgroup`.
    """
    counts = [float(os.cpu_count() or 1)]
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        counts.append(len(os.sched_getaffinity(0)))
    limit = _container_limit(pathlib.Path(root))
    return max(1, math.ceil(min([*counts, *([] if limit is None else [limit])])))


def _container_limit(root: pathlib.Path) -> float | None:
    """Returns the number of processors that the container may use; None without a limit."""
    try:
        quota, period = (root / _V2).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (root / _V1 / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return share if share > 0 else None  # -1: no limit
