"""The plan of a federation: a nested dict of everything that must be the same at every site, and
how two plans differ.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

_ABSENT = object()


def normal(plan: dict) -> dict:
    """Returns the plan as JSON gives it back: tuples are lists, keys are strings. Raises ValueError
    where it is no JSON.
    """
    try:
        return json.loads(json.dumps(plan, allow_nan=False, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the plan is not plain JSON ({error}); use numbers, strings, lists and dicts"
        ) from error


def fingerprint(plan: dict) -> str:
    """Returns 64 hexadecimal digits that two plans share exactly when they are written the same."""
    return hashlib.sha256(
        json.dumps(normal(plan), sort_keys=True, separators=(",", ":")).encode("utf-8")
    ).hexdigest()


def differences(
    server: dict, site: dict, *, words: tuple[str, str] = ("server", "site")
) -> list[str]:
    """Returns one line for every leaf that differs, e.g. "patch.size: server 48, site 64".

    Args:
      words: what comes before the first plan's values, and before the second's.
    """
    ours, theirs = _leaves(normal(server)), _leaves(normal(site))
    return [
        f"{key}: {words[0]} {_text(ours.get(key, _ABSENT))}, {words[1]} {_text(theirs.get(key, _ABSENT))}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key, _ABSENT) != theirs.get(key, _ABSENT)
    ]


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or (not value and prefix):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves.update(_leaves(inner, f"{prefix}.{key}" if prefix else key))
    return leaves


def _text(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value)
