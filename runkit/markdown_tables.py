"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table; a column is aligned right if its heading ends in "#"."""
    return [
        _line([name.removesuffix("#") for name in head]),
        "|" + "".join("---:|" if name.endswith("#") else "---|" for name in head),
        *map(_line, rows),
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
