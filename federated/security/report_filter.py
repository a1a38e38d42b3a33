"""The filter of what may leave a site in a report: numbers under known names, and nothing else.

Both ends pass every report through this filter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from federated.errors import PrivacyRefused
from federated.security.vocabulary import Range, Vocabulary

_TEXT_COLUMNS = ("model", "site", "grid", "class")
_MAX_CASE = 100_000
MAX_ROWS = 50_000  # per site: 60 models and 400 test cases on two grids
_MAX_COLUMNS = 64
_ANY: Range = (-1e30, 1e30)  # for losses and the like; sums of such values still fit in float32
_METRIC = re.compile(r"[a-zA-Z][a-zA-Z0-9_/]{0,63}")
_LONG_NUMBER = re.compile(r"[0-9]{4}")  # could be a date or a record number
_MAX_METRICS = 64


def check_metrics(
    metrics: Mapping[str, Any], *, what: str, vocabulary: Vocabulary | None = None
) -> dict[str, float]:
    """Returns `metrics` as plain floats, sorted by name, without the values that are None.

    They are sorted because a protobuf map does not preserve an order.

    Args:
      vocabulary: if given, its ranges apply to the values for which it has a word.
    Raises:
      PrivacyRefused: if there are more than 64 metrics, a key is not a short metric name, or a
        value is not a finite number of at most 1e30. The mean of such numbers is finite in float32
        too.
    """
    if len(metrics) > _MAX_METRICS:
        raise PrivacyRefused(f"{what}: {len(metrics)} values, at most {_MAX_METRICS} leave a site")
    checked = {}
    for number, (key, value) in enumerate(metrics.items(), start=1):
        if not isinstance(key, str) or not _METRIC.fullmatch(key) or _LONG_NUMBER.search(key):
            raise PrivacyRefused(
                f"{what}: the name of value {number} is not a metric name "
                "(letters, digits, '_', '/'; no long numbers)"
            )
        if value is not None:
            allowed = vocabulary.range_of(key) if vocabulary is not None else None
            checked[key] = _number(value, f"{what}: {key}", allowed or _ANY)
    return dict(sorted(checked.items()))


def check_scores(
    scores: Mapping[str, Any], *, vocabulary: Vocabulary, what: str
) -> dict[str, float]:
    """Returns a site's scores of a global model as `check_metrics` does.

    Raises:
      PrivacyRefused: as in `check_metrics`, and if a score is outside the range of its measure.
    """
    return check_metrics(scores, what=what, vocabulary=vocabulary)


def checked_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    vocabulary: Vocabulary,
    site: str,
    models: Iterable[str],
    max_cases: int = _MAX_CASE,
) -> Iterator[dict[str, Any]]:
    """Checks per-case rows and yields each as plain values, with the columns in the given order.

    A row holds `model`, `site`, `case` (the case's running number, from 1) and `grid`, and may hold
    `class`. Its other columns hold numbers or None, and their names consist of words of the
    vocabulary. There is one row per model, case, grid and class.

    Args:
      max_cases: number of different cases that a site can have.
    Raises:
      PrivacyRefused: naming the row and the column, but never the content of a column that is not
        known to be harmless. Also raised for a row without a required column, for a second row of
        the same case, and for more than MAX_ROWS rows or `max_cases` cases.
    """
    allowed: Mapping[str, Collection[str]] = {
        "model": frozenset(models),
        "site": {site},
        "grid": vocabulary.grids,
        "class": vocabulary.classes,
    }
    seen, cases = set[tuple[Any, ...]](), set[int]()
    for position, row in enumerate(rows, start=1):
        if position > MAX_ROWS:
            raise PrivacyRefused(
                f"more than {MAX_ROWS} rows; a site reports one per model, case and grid"
            )
        here = f"row {position}"
        if len(row) > _MAX_COLUMNS:
            raise PrivacyRefused(f"{here}: {len(row)} columns, at most {_MAX_COLUMNS} leave a site")
        case = _check_keys(row, here, allowed)
        cases.add(case)
        if len(cases) > max_cases:
            raise PrivacyRefused(
                f"{here}: more than {max_cases} cases; no site of this run has that many"
            )
        key = (row["model"], case, row["grid"], row.get("class"))
        if key in seen:
            raise PrivacyRefused(f"{here}: a second row of the same model, case, grid and class")
        seen.add(key)
        plain = _plain(row, here, vocabulary)
        for column, may_be_empty in vocabulary.required.items():
            if plain.get(column) is None and not (may_be_empty and column in plain):
                raise PrivacyRefused(
                    f"{here}: column {column!r} is {'empty' if column in plain else 'missing'}; no "
                    "table can be made of rows without it"
                )
        _check_counts(plain, here, vocabulary)
        yield plain


def _check_keys(row: Mapping[str, Any], here: str, allowed: Mapping[str, Collection[str]]) -> int:
    """Checks the columns that identify a row; returns the case's number."""
    for column in ("model", "site", "case", "grid"):
        if column not in row:
            raise PrivacyRefused(f"{here}: column {column!r} is missing")
    for column, known in allowed.items():
        if column in row and not (isinstance(row[column], str) and row[column] in known):
            raise PrivacyRefused(
                f"{here}: column {column!r} is not one of {', '.join(sorted(known))}"
            )
    case = row["case"]
    if isinstance(case, bool) or not isinstance(case, int) or not 1 <= case <= _MAX_CASE:
        raise PrivacyRefused(
            f"{here}: column 'case' is not a running number (a Python int) from 1 to {_MAX_CASE}; "
            "identifiers stay at the site"
        )
    return case


def _plain(row: Mapping[str, Any], here: str, vocabulary: Vocabulary) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for number, (column, value) in enumerate(row.items(), start=1):
        if column in _TEXT_COLUMNS or column == "case":
            plain[column] = value
        elif not isinstance(column, str) or not vocabulary.has_column(column):
            raise PrivacyRefused(
                f"{here}: column {number} has an unknown name; expected words out of "
                f"{', '.join(sorted(vocabulary.known))}, joined by '_'"
            )
        elif value is None:
            plain[column] = None
        else:
            allowed = vocabulary.range_of(column) or _ANY
            plain[column] = _number(value, f"{here}: column {column!r}", allowed)
    return plain


def _check_counts(row: Mapping[str, Any], here: str, vocabulary: Vocabulary) -> None:
    for column, value in row.items():
        if value is None or column in _TEXT_COLUMNS or not vocabulary.is_count(column):
            continue
        if value != int(value):
            raise PrivacyRefused(f"{here}: column {column!r} is {value:g}; expected a whole number")
        whole = vocabulary.whole_of(column)
        most = row.get(whole) if whole else None
        if most is not None and value > most:
            raise PrivacyRefused(
                f"{here}: column {column!r} is {value:g}, more than the {most:g} in {whole!r}"
            )


def _number(value: Any, where: str, allowed: Range) -> float:
    # NumPy scalars count as numbers because they have __float__. Strings do not have it, and a bool
    # is an int with another meaning.
    scalar = hasattr(value, "__float__") and not getattr(value, "ndim", None)
    if isinstance(value, (bool, str, bytes)) or not scalar:
        raise PrivacyRefused(f"{where} is not a number; only numbers leave a site")
    number = float(value)
    if not math.isfinite(number):
        raise PrivacyRefused(f"{where} is not finite; leave it out or report None")
    if not allowed[0] <= number <= allowed[1]:
        raise PrivacyRefused(f"{where} is {number:g}; expected {allowed[0]:g} to {allowed[1]:g}")
    return number
