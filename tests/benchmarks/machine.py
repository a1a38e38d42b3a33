"""Describes the machine that a benchmark ran on.

Ratios between programs differ between processors, above all with and without AVX-512.
"""

from __future__ import annotations

import os
import pathlib
import platform


def describe() -> str:
    """Returns one line: processor, usable cores, widest vector unit and load."""
    name, flags = platform.processor() or platform.machine(), ""
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        values = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in values.items()}
        name, flags = fields.get("model name", name), fields.get("flags", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = flags.split()
    vectors = (
        "AVX-512"
        if "avx512f" in words
        else "AVX2, no AVX-512"
        if "avx2" in words
        else "no AVX2 found"
    )
    return (
        f"processor: {name}, {cores} cores for this process, {vectors}; "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )
