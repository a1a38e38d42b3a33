"""What a site may declare about its labels at login: one word from a fixed list per class."""

from __future__ import annotations

import re
from collections.abc import Mapping

from federated.errors import UpdateRefused

WORDS = ("complete", "absent", "unlabelled")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_MAX_CLASSES = 16


def check_labels(site: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Returns a site's declaration sorted by class.

    Args:
      labels: class name -> one of `WORDS`.
    Raises:
      UpdateRefused: if the declaration holds anything else.
    """
    odd = [word for word in labels.values() if word not in WORDS]
    if odd or len(labels) > _MAX_CLASSES or not all(_NAME.fullmatch(name) for name in labels):
        raise UpdateRefused(
            f"site {site!r} declares labels that this server does not accept; expected at most "
            f"{_MAX_CLASSES} classes, each {', '.join(WORDS[:-1])} or {WORDS[-1]}; "
            "install the same release at both ends"
        )
    return dict(sorted(labels.items()))
