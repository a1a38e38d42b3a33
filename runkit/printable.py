"""Foreign text made safe to print: nothing in it moves the cursor, begins a line, turns the
direction of reading or fills a log.

Text is foreign where others wrote it: a peer of the federation, a certificate, a scan's header, the
name of a file. `text` is for the place where it enters. `block` is the net beneath: whatever a
program prints to a log or a terminal in the end goes through it.
"""

from __future__ import annotations

import logging
import unicodedata
from typing import Any

LIMIT = 300  # characters of one foreign text in a line of a log


def text(value: Any, *, limit: int = LIMIT) -> str:
    """Returns `str(value)` as one line of printable characters, cut after `limit` of them, and the
    cut said.

    Control characters, line separators, bidirectional overrides and all else that `str.isprintable`
    denies, spaces excepted, become what Python writes for them, e.g. ESC becomes the four
    characters \\x1b. Text without any, the usual case, stays as it is.
    """
    whole = str(value)
    kept = whole[:limit]
    if not kept.isprintable():
        kept = "".join(map(_visible, kept))
    if len(whole) > limit or len(kept) > limit:  # escapes are longer than what they stand for
        return f"{kept[:limit]}… (cut, {len(whole)} characters)"
    return kept


def block(value: Any) -> str:
    """Returns text of several lines, e.g. a stack trace, with every control character but tabs and
    line ends escaped.

    Lines after the first are indented: foreign text that slipped into it cannot begin a line and
    pass for an event of its own.
    """
    lines = (
        "\t".join("".join(map(_visible, part)) for part in line.split("\t"))
        for line in str(value).split("\n")
    )
    return "\n    ".join(lines)


class Formatter(logging.Formatter):
    """Passes what another formatter makes of a record through `block`."""

    def __init__(self, inner: logging.Formatter):
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return block(self._inner.format(record))


def _visible(character: str) -> str:
    # Zs are spaces of other widths, which change nothing but what they take of a line.
    shown = character.isprintable() or unicodedata.category(character) == "Zs"
    return character if shown else character.encode("unicode_escape").decode("ascii")
