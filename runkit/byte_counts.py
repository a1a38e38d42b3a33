"""Numbers of bytes as text."""

from __future__ import annotations


def text(nbytes: float) -> str:
    """Returns a number of bytes in its unit, powers of 1000, e.g. "12.3 MB"."""
    for unit in ("B", "kB", "MB"):
        if abs(nbytes) < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"
