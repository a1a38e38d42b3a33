"""Conditions on the values of a JSON file that somebody else may have written or changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeGuard

from runkit import settings
from runkit.settings import Condition


def is_whole(value: object, least: float = -math.inf, most: float = math.inf) -> TypeGuard[int]:
    """Returns whether a value is a whole number in this range. JSON's true is an int in Python."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object) -> TypeGuard[float]:
    """Returns whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def are_numbers(value: object, count: int) -> TypeGuard[list[float]]:
    """Returns whether a value is a list of this many finite numbers."""
    return isinstance(value, list) and len(value) == count and all(map(is_number, value))


def is_object_of(value: object, holds: Callable[[Any], bool]) -> TypeGuard[Mapping[str, Any]]:
    """Returns whether a value is a JSON object whose every value meets a condition."""
    return isinstance(value, Mapping) and all(map(holds, value.values()))


def is_object_of_texts(value: object) -> TypeGuard[Mapping[str, str]]:
    return is_object_of(value, lambda text: isinstance(text, str))


OBJECT = Condition(lambda value: isinstance(value, Mapping), "a JSON object")
WHOLE = Condition(is_whole, "a whole number")


def require(
    values: Mapping[str, Any],
    conditions: Mapping[str, Condition],
    *,
    may_lack: Collection[str] | None = None,
    prefix: str = "",
) -> None:
    """Checks the entries of a JSON object.

    Args:
      values: the object; entries without a condition are not checked.
      conditions: key -> what its value must meet.
      may_lack: the keys that may be missing; None for all of them.
      prefix: what the error puts before a key, e.g. "inference.".
    Raises:
      ValueError: naming the first key whose value is missing or not what is expected.
    """
    for key, condition in conditions.items():
        if key in values or (may_lack is not None and key not in may_lack):
            settings.require(condition, f"`{prefix}{key}`", values.get(key))
