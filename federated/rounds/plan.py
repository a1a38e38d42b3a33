"""The plan of a federation: a nested dict of all settings that must be equal at every site."""

from __future__ import annotations

import hashlib
import json

from runkit import nested

_ABSENT = object()


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
    try:
        for name, value in _leaves(plan).items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                return f"'s entry {name!r}"
    except (TypeError, RecursionError):
        pass
    return ""


def fingerprint(plan: dict) -> str:
    """Returns the SHA-256 of a plan as 64 hexadecimal digits; equal plans have equal digests."""
    return hashlib.sha256(
        json.dumps(normal(plan), sort_keys=True, separators=(",", ":")).encode("utf-8")
    ).hexdigest()


def differences(
    server: dict, site: dict, *, words: tuple[str, str] = ("server", "site")
) -> list[str]:
    """Returns one line for every value that differs, e.g. "patch.size: server 48, site 64".

    Args:
      words: names of the first and the second plan in these lines.
    """
    return [
        f"{key}: {words[0]} {_text(ours)}, {words[1]} {_text(theirs)}"
        for key, ours, theirs in nested.differences(
            _leaves(normal(server)), _leaves(normal(site)), absent=_ABSENT
        )
    ]


def _leaves(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict) or (not value and prefix):
        return {prefix: value}
    leaves: dict[str, object] = {}
    for key, inner in value.items():
        leaves.update(_leaves(inner, f"{prefix}.{key}" if prefix else key))
    return leaves


def _text(value: object) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value)
