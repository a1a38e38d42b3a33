"""Makes foreign text safe to print: it cannot move the cursor, start a line or flood a log.

Foreign text is text from outside: from a peer in the federation, a certificate, a scan's header or
a file's name. Use `text` where it enters the program. `block` is the safety net: everything that a
program prints to a log or a terminal passes through it.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence

LIMIT = 300  # characters of one foreign text in a log line


def text(value: object, *, limit: int = LIMIT) -> str:
    """Returns `str(value)` as one line of printable characters, visibly cut after `limit` of them.

    Control characters, line separators, bidirectional overrides and everything else that
    `str.isprintable` rejects, apart from spaces, become Python escapes: ESC becomes the four
    characters \\x1b. Ordinary text stays as it is.
    """
    whole = str(value)
    kept = whole[:limit]
    if not kept.isprintable():
        kept = "".join(map(_visible, kept))
    if len(whole) > limit or len(kept) > limit:  # escapes are longer than the characters replaced
        return f"{kept[:limit]}… (cut, {len(whole)} characters)"
    return kept


def some(names: Sequence[str], most: int) -> str:
    """Returns at most this many of the names, and how many more there are: "a, b and 5 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Fields:
    """The fields of an event for a log line, "key=value key=value", each value as `text` gives it.

    They become text only if the line is printed.
    """

    def __init__(self, fields: Mapping[str, object]):
        self._fields = fields

    def __str__(self) -> str:
        return " ".join(f"{key}={text(value)}" for key, value in self._fields.items())


def block(value: object) -> str:
    """Returns text of several lines with control characters other than tab and newline escaped.

    Lines after the first are indented, so that foreign text, e.g. in a stack trace, cannot start a
    line and be mistaken for a separate event.
    """
    lines = (
        "\t".join("".join(map(_visible, part)) for part in line.split("\t"))
        for line in str(value).split("\n")
    )
    return "\n    ".join(lines)


class Formatter(logging.Formatter):
    """Passes the output of another formatter through `block`."""

    def __init__(self, inner: logging.Formatter):
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return block(self._inner.format(record))


def _visible(character: str) -> str:
    # Zs: spaces of other widths, which are harmless
    shown = character.isprintable() or unicodedata.category(character) == "Zs"
    return character if shown else character.encode("unicode_escape").decode("ascii")
