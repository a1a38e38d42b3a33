"""The words and values that a site's reports may hold.

The program that makes the reports defines them; this package does not know any measure or class. A
site uses its own vocabulary and never one that a server sends, so a server cannot extend a report.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

Range = tuple[float, float]

# Short, and without a long run of digits: a date or a record number cannot pass for a word.
_WORD = re.compile(r"(?!.*[0-9]{4})[A-Za-z][A-Za-z0-9]{0,31}")
_BETWEEN = re.compile(r"[/_]")  # the words of a name
_MAX_WORDS = 64
_MAX_COLUMN = 128  # characters of a column's name; real ones have up to 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The names that the columns of a report can have, and the ranges of their numbers.

    A column's name consists of `words` and `classes`, joined by "_", so that no identifier can hide
    in a name.

    Attributes:
      classes: names of the classes that reports are about.
      grids: names of the grids on which a model is evaluated.
      words: measures and their qualifiers. Each maps to the lowest and highest value of a column
        in whose name it is the first word with a range, or to None if it does not set a range.
      counts: words of columns that hold whole numbers.
      parts: column of a part -> column of the whole, both without the class at the end. A part is
        never more than the whole.
      required: columns that every row has -> whether they may be empty. Reports of all sites are
        read together, so a row without them would make those of the other sites useless too.
    Raises:
      ValueError: if a word could hold an identifier, or if there are more than 64 words.
    """

    classes: tuple[str, ...]
    grids: tuple[str, ...]
    words: Mapping[str, Range | None]
    counts: frozenset[str] = frozenset()
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    required: Mapping[str, bool] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [*self.classes, *self.grids, *self.words]
        odd = [word for word in named if not _WORD.fullmatch(word)]
        odd += [word for word in self.words if word != word.lower()]
        if odd or len(named) > _MAX_WORDS:
            raise ValueError(
                f"the vocabulary has {len(named)} words, among them {odd}; expected at most "
                f"{_MAX_WORDS}, each of at most 32 letters and digits, no four digits in a row, "
                "measures in lower case"
            )

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """Every word that a column's name may hold."""
        return frozenset(self.words) | frozenset(self.classes)

    def has_column(self, name: str) -> bool:
        """Returns whether a column may have this name."""
        return len(name) <= _MAX_COLUMN and set(name.split("_")) <= self.known

    def range_of(self, name: str) -> Range | None:
        """Returns the lowest and highest value of a column, or None if its name sets no range."""
        for word in _BETWEEN.split(name.lower()):
            found = self.words.get(word)
            if found:
                return found
        return None

    def is_count(self, name: str) -> bool:
        """Returns whether a column of this name holds whole numbers."""
        return not self.counts.isdisjoint(name.split("_"))

    def whole_of(self, name: str) -> str | None:
        """Returns the column that holds the whole of which this column holds a part."""
        for part, whole in self.parts.items():
            if name.startswith(f"{part}_"):
                return f"{whole}_{name.removeprefix(f'{part}_')}"
        return None
