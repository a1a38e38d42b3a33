"""The JSON files of kits: site.json, operator.json, credentials.json and federation.json."""

from __future__ import annotations

import pathlib
from typing import Any

from runkit import atomic, formats

FORMAT = 1  # increase it if earlier releases can no longer read these files


def read_kit_file(path: pathlib.Path) -> Any:
    """Returns the content of a file. Raises ValueError if a newer release wrote it."""
    content = atomic.read_json(path)
    if isinstance(content, dict):
        formats.refuse_newer(path, content.get("format"), FORMAT)
    return content
