"""Reads JSON text from outside: only whole numbers that a float can hold."""

from __future__ import annotations

import json
from typing import Any

_MOST_DIGITS = 300  # a float has at most 309; more are an error in every calculation


def loads(text: str | bytes, **options: Any) -> Any:
    """Returns the JSON value in `text`, like `json.loads`, whose options it takes.

    Raises:
      ValueError: if it is not JSON, or holds a whole number of more than 300 digits. Python reads
          such a number, but the first calculation with it raises OverflowError.
    """
    return json.loads(text, parse_int=_whole, **options)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
