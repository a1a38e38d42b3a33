"""Explains what the plan's sharing rules mean for a site. Needs no TensorFlow."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from federated.rounds.sharing import ShareRules
from federated.tensors.weights import TensorSpec


def lines(rules: ShareRules, specs: Sequence[TensorSpec], folder: str | os.PathLike) -> list[str]:
    """Returns one log line per rule: how much of the model it covers, and what that means.

    Args:
      specs: the model's tensors.
      folder: the site's journal, which holds its private arrays.
    """
    values = {spec.name: math.prod(spec.shape) for spec in specs}
    sharing = rules.of(values)
    told = []
    for event, names, patterns, what in (
        (
            "arrays_stay",
            sharing.kept,
            rules.keep,
            f"they never leave this site and exist nowhere else; back up {os.fspath(folder)}",
        ),
        (
            "arrays_only_received",
            sharing.received,
            rules.receive,
            "this site takes them from the server, does not train them and never sends them",
        ),
    ):
        if names:
            count = sum(values[name] for name in names)
            told.append(
                f"event={event} arrays={len(names)} values={count} of={sum(values.values())} "
                f"names={','.join(patterns)}: {what}"
            )
    return told
