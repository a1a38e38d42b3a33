"""The rule for a site's name, which is part of its certificate, its files, its models and rows."""

from __future__ import annotations

import re

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
RESERVED = ("server", "operator", "authority")  # names of members that are not sites


def check_site_name(name: str) -> None:
    """Raises ValueError if a site cannot have this name."""
    if not SITE_NAME.fullmatch(name) or name.lower() in RESERVED:
        raise ValueError(
            f"site name {name!r} cannot be used; letters, digits, '_' and '-', at most 32, and not "
            f"{', '.join(RESERVED[:-1])} or {RESERVED[-1]}"
        )
