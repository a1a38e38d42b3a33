"""Model names with a special meaning in rows: candidates for a shared choice, gated models."""

from __future__ import annotations

import re

GATED = "_gated"  # ends the name of a model with the healthy gate, see `gated_rows`
_CANDIDATE = re.compile(r"(?P<model>.+_FL_local)_r(?P<round>\d{3,6})")


def candidate_name(model: str, round_number: int) -> str:
    """Returns the name under which a round's local model is lent, e.g. C1_FL_local_r024."""
    return f"{model}_r{round_number:03d}"


def candidate_of(name: str) -> tuple[str, int] | None:
    """Returns (model, round) for the name of a candidate, None for other names."""
    match = _CANDIDATE.fullmatch(name)
    return None if match is None else (match["model"], int(match["round"]))
