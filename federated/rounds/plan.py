"""The plan of a federation: a nested dict of everything that must be the same at every site."""

from __future__ import annotations

import hashlib
import json

_ABSENT = object()


def normal(plan: dict) -> dict:
    """Returns the plan as it is after JSON: tuples become lists, and keys strings.

    Raises:
      ValueError: for a plan that JSON cannot hold.
    """
    try:
        return json.loads(json.dumps(plan, allow_nan=False, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the plan is not plain JSON ({error}); use numbers, strings, lists and dicts"
        ) from error


def fingerprint(plan: dict) -> str:
    """Returns the SHA-256 of a plan, 64 hexadecimal digits; equal plans have equal ones."""
    return hashlib.sha256(
        json.dumps(normal(plan), sort_keys=True, separators=(",", ":")).encode("utf-8")
    ).hexdigest()


def differences(
    server: dict, site: dict, *, words: tuple[str, str] = ("server", "site")
) -> list[str]:
    """Returns one line for every value that differs, e.g. "patch.size: server 48, site 64".

    Args:
      words: what to call the first plan, and the second.
    """
    ours, theirs = _leaves(normal(server)), _leaves(normal(site))
    return [
        f"{key}: {words[0]} {_text(ours.get(key, _ABSENT))}, "
        f"{words[1]} {_text(theirs.get(key, _ABSENT))}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key, _ABSENT) != theirs.get(key, _ABSENT)
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
