"""Numbers as the texts of a table's cells; a dash stands for a number that is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING = "–"


def number(value: float | None, digits: int, *, factor: float = 1) -> str:
    """Returns `factor` times a number with this number of decimals."""
    return NOTHING if value is None else f"{factor * value:.{digits}f}"


def with_interval(
    found: Mapping[str, Any] | None, digits: int, *, factor: float = 1, of: str = "estimate"
) -> str:
    """Returns a number with its interval, e.g. "0.61 [0.52, 0.70]"; an end may be a dash.

    Args:
      found: the number under the key `of`, and `low` and `high`.
    """
    if found is None or found[of] is None:
        return NOTHING
    middle, low, high = (number(found[key], digits, factor=factor) for key in (of, "low", "high"))
    return f"{middle} [{low}, {high}]"
