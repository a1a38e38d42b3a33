"""Names of a supernet's paths as models of an evaluation, e.g. path_201122110022."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PATH = re.compile(r"path_(?P<choices>[0-9]{1,59})")


def name_of(gene: Sequence[int]) -> str:
    """Returns the name of a path: one digit per cell.

    Raises:
      ValueError: for a choice above 9, or for more cells than fit in a name.
    """
    name = "path_" + "".join(map(str, gene))
    if not _PATH.fullmatch(name) or any(not 0 <= choice <= 9 for choice in gene):
        raise ValueError(
            f"path {list(gene)} has no name; expected 1 to 59 cells with choices of 0 to 9"
        )
    return name


def gene_of(name: str) -> tuple[int, ...]:
    """Returns the path that a name encodes.

    Raises:
      ValueError: if it is not the name of a path.
    """
    match = _PATH.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} is not the name of a path; expected path_ and one digit per cell"
        )
    return tuple(int(digit) for digit in match["choices"])
