"""Comparison of nested values, such as the settings in two JSON files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(
    one: Any, other: Any, path: str = "", *, absent: Any = None, numbered: str | None = None
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the path and both values of each entry in which two values differ, sorted by name.

    For example ("patch.size", 48, 64).

    Args:
      path: the path of the two values.
      absent: stands for an entry that only one mapping has.
      numbered: name of lists that are compared entry by entry if they are equally long, with paths
        such as "cells[3].op". All other lists are compared as a whole.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        inner = {
            (f"{path}.{name}" if path else name): (one.get(name, absent), other.get(name, absent))
            for name in sorted(one.keys() | other.keys())
        }
    elif path.rpartition(".")[2] == numbered and _equally_long_lists(one, other):
        pairs = zip(one, other, strict=True)
        inner = {f"{path}[{number}]": pair for number, pair in enumerate(pairs, start=1)}
    else:
        inner = {}
        if one != other:
            yield path, one, other
    for where, values in inner.items():
        yield from differences(*values, where, absent=absent, numbered=numbered)


def _equally_long_lists(one: Any, other: Any) -> bool:
    return isinstance(one, list) and isinstance(other, list) and len(one) == len(other)
