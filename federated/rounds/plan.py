"""The plan of a federation: a nested dict of all settings that must be equal at every site."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator

from runkit import printable

_ABSENT = object()
# Differences that are listed, and characters of a value's name and of a value.
_MAX_LINES, _MAX_NAME, _MAX_VALUE = 300, 300, 4000


def normal(plan: dict) -> dict:
    """Returns the plan as JSON represents it: tuples become lists, and keys become strings.

    Raises:
      ValueError: if the plan cannot be represented as JSON.
    """
    try:
        return json.loads(json.dumps(plan, allow_nan=False, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the plan{_first_odd(plan)} is not plain JSON ({error}); use Python's numbers and "
            "strings, lists and dicts"
        ) from error


def _first_odd(plan: dict) -> str:
    """Returns the name of the first entry that JSON cannot hold, or nothing."""
    with contextlib.suppress(RecursionError):  # a plan that holds itself
        for name, value in _leaves(plan):
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                return f"'s entry {name!r}"
    return ""


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def fingerprint(plan: dict) -> str:
    """Returns the SHA-256 of a plan as 64 hexadecimal digits; equal plans have equal digests."""
    return hashlib.sha256(
        json.dumps(normal(plan), sort_keys=True, separators=(",", ":")).encode("utf-8")
    ).hexdigest()


def differences(
    server: dict, site: dict, *, words: tuple[str, str] = ("server", "site")
) -> list[str]:
    """Returns one line for every value that differs, e.g. "patch.size: server 48, site 64".

    After a few hundred lines, the last one only counts the rest. A plan from outside may have so
    long names, and so many, that all lines would take thousands of times its size.

    Args:
      words: names of the first and the second plan in these lines.
    """
    found = _differing(normal(server), normal(site), ())
    lines = [
        f"{printable.text('.'.join(path), limit=_MAX_NAME)}: "
        f"{words[0]} {_text(ours)}, {words[1]} {_text(theirs)}"
        for path, ours, theirs in itertools.islice(found, _MAX_LINES)
    ]
    more = sum(1 for _ in found)
    return [*lines, *([f"and {more} more"] if more else [])]


def _differing(
    ours: object, theirs: object, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], object, object]]:
    """Yields (path, our value, their value) of each leaf in which two plans differ."""
    one, two = (value if isinstance(value, dict) else {} for value in (ours, theirs))
    our_leaf, their_leaf = (
        _ABSENT if isinstance(value, dict) and (value or not path) else value
        for value in (ours, theirs)
    )
    if our_leaf != their_leaf:
        yield path, our_leaf, their_leaf
    for key in sorted(one.keys() | two.keys()):
        yield from _differing(one.get(key, _ABSENT), two.get(key, _ABSENT), (*path, key))


def _text(value: object) -> str:
    return "nothing" if value is _ABSENT else printable.text(json.dumps(value), limit=_MAX_VALUE)
