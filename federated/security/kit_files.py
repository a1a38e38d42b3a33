"""The JSON files of kits: site.json, operator.json, credentials.json and federation.json."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from runkit import formats

FORMAT = 1  # increase it if earlier releases can no longer read these files
# The key of a site's pending request. The kit's own key keeps working until the answer arrives.
# This one is never replaced, because an answer may be on its way.
NEXT_KEY = "site.key.next"
KINDS = {"site": "a site's kit", "operator": "the operator's kit", "server": "the server's kit"}
_HOST = re.compile(r"[^\s/]{1,253}")
WHOLE = "use the whole folder as `provision` made it"
_INSTALL = "python -m experiments.request --kit=… --answer=… --authority=…"


def read_kit_file(path: pathlib.Path) -> Any:
    """Returns the content of a file. Raises ValueError if a newer release wrote it."""
    return formats.read_json(path, FORMAT)


def is_address(host: object, port: object) -> bool:
    """Returns whether these values of a kit can be a host and a port; port 0 names no server."""
    return (
        isinstance(host, str)
        and _HOST.fullmatch(host) is not None
        and host.isprintable()
        and type(port) is int  # JSON's true is an int in Python
        and 0 <= port <= 65535
    )


def remedy(folder: pathlib.Path, kinds: Sequence[str], *, otherwise: str = WHOLE) -> str:
    """Says what to do about a folder that is not a complete kit.

    Args:
      folder: the folder that was given as a kit.
      kinds: the kinds of kit that would do, of `KINDS`.
      otherwise: what to say if the folder does not show what it is.
    """
    if (folder / NEXT_KEY).is_file() and not (folder / "site.pem").is_file():
        return f"install the operator's answer: {_INSTALL}"
    wanted = " or ".join(KINDS[kind] for kind in kinds)
    for kind, words in KINDS.items():
        if kind not in kinds and (folder / f"{kind}.key").is_file():
            return f"{folder} is {words}: give {wanted}"
    if (folder / "site.pem").is_file() and not any(
        (folder / name).is_file() for name in ("site.key", "credential")
    ):
        return (
            f"{folder} is the operator's answer, not a kit: install it in the kit that made the "
            f"request: {_INSTALL}"
        )
    for kind in kinds:
        kits = sorted(path.parent for path in folder.glob(f"*/{kind}.key"))
        if kits:
            return f"give {wanted}, which is a folder in {folder}, e.g. {kits[0]}"
    return otherwise
