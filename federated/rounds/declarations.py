"""What a site may say at login about the classes that its labels show: words of a fixed list, and
nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from federated.errors import UpdateRefused

WORDS = ("complete", "absent", "unlabelled")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_MOST = 16  # classes


def check_labels(site: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the declaration, sorted by class. Raises UpdateRefused where it is not class names
    and words of the list.
    """
    odd = [word for word in labels.values() if word not in WORDS]
    if odd or len(labels) > _MOST or not all(_NAME.fullmatch(name) for name in labels):
        raise UpdateRefused(
            f"site {site!r} declares labels that this server does not take; expected at most {_MOST} classes, each one of {', '.join(WORDS)}; "
            "install the same release at both ends"
        )
    return dict(sorted(labels.items()))
