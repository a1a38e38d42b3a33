"""The commands of the guides, which the deployment tests run, so that the two cannot differ."""

from __future__ import annotations

import pathlib
import re

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGES = ("hospital-guide.md", "federation.md")
_BLOCK = re.compile(r"<!-- walk: (?P<step>[a-z ]+) -->\n```sh\n(?P<commands>.*?)```\n", re.DOTALL)


def steps() -> dict[str, str]:
    """Returns the commands of each step, e.g. "hospital request", as written in the guides."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            if block["step"] in found:
                raise ValueError(f"{page}: step {block['step']!r} is there twice")
            found[block["step"]] = block["commands"]
        if text.count("<!-- walk:") != len(_BLOCK.findall(text)):
            raise ValueError(f"{page}: a walk mark has no block of commands below it")
    return found
