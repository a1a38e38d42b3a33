"""What may leave a site in a report: numbers under known names. Both ends pass every report through
this gate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from federated.errors import PrivacyRefused

GRIDS = ("training", "native", "validation")  # the last: a validation case on the training grid
CLASSES = ("pancreas", "tumour")
# Column names are words of this list joined by "_", so that no identifier can hide in a name.
MEASURES = frozenset(
    {
        "dice",
        "hd95",
        "nsd",
        "surface",
        "volume",
        "voxels",
        "components",
        "ratio",
        "sensitivity",
        "precision",
        "score",
        "seconds",
    }
)
QUALIFIERS = frozenset(
    {
        "truth",
        "reference",
        "predicted",
        "difference",
        "error",
        "absolute",
        "relative",
        "ml",
        "mm",
        "percent",
        "foreground",
    }
    | {"found", "false"}
)
WORDS = MEASURES | QUALIFIERS | frozenset(CLASSES)
_TEXT_COLUMNS = ("model", "site", "grid", "class")
_MAX_CASE = 100_000
MAX_ROWS = 50_000  # of one site: 60 models and 400 test cases on two grids
_MAX_COLUMNS = 64
# What a number of a row or a score can be, by the first word of its name that is listed here.
_SHARE = (0.0, 1.0)
_RANGES: dict[str, tuple[float, float]] = {
    "dice": _SHARE,
    "nsd": _SHARE,
    "sensitivity": _SHARE,
    "precision": _SHARE,
    "hd95": (0.0, 1e5),  # mm: no scan is a hundred metres long
    "volume": (-1e6, 1e6),  # ml; an error has a sign
    "truth": (0.0, 1e6),
    "found": (0.0, 1e6),  # of the truth's parts
    "false": (0.0, 1e9),  # of the predicted parts
    "score": (0.0, 1e3),  # of a patient: log-odds, cut there by the site
    "components": (0.0, 1e9),
    "voxels": (0.0, 1e12),
    "seconds": (0.0, 1e9),
}
_COUNTS = frozenset({"found", "false"})  # whole numbers
_NO_MORE_THAN = {
    "found_": "truth_components_",
    "false_components_": "components_",
}  # a part of a count is no more than the whole
_ANY = (-1e30, 1e30)  # losses and their like; what float32 holds, with room for a sum
_METRIC = re.compile(r"[a-zA-Z][a-zA-Z0-9_/]{0,63}")
_LONG_NUMBER = re.compile(r"[0-9]{4}")  # a name is no place for a date or a record number
_MAX_METRICS = 64


def check_metrics(metrics: Mapping[str, Any], *, what: str) -> dict[str, float]:
    """Returns `metrics` as plain floats in the order of their names, since a protobuf map keeps
    none; None means no value and is left out.

    Raises:
      PrivacyRefused: for more than 64 of them, a key that is not a short metric name, or a value
        that is not a finite number of at most 1e30: a mean of such numbers is finite, in float32
        too.
    """
    return _checked(metrics, what, lambda key: _ANY)


def check_scores(scores: Mapping[str, Any], *, what: str) -> dict[str, float]:
    """Returns what a site scored on a global model, as `check_metrics`; each score lies in the
    range of its kind, a Dice between 0 and 1.

    Raises:
      PrivacyRefused: as `check_metrics`, or for a score out of its range.
    """
    return _checked(scores, what, lambda key: _range_of(re.split(r"[/_]", key.lower())))


def _checked(
    metrics: Mapping[str, Any], what: str, range_of: Callable[[str], tuple[float, float]]
) -> dict[str, float]:
    if len(metrics) > _MAX_METRICS:
        raise PrivacyRefused(f"{what}: {len(metrics)} values, at most {_MAX_METRICS} leave a site")
    checked = {}
    for number, (key, value) in enumerate(metrics.items(), start=1):
        if not isinstance(key, str) or not _METRIC.fullmatch(key) or _LONG_NUMBER.search(key):
            raise PrivacyRefused(
                f"{what}: the name of value {number} is not a metric name (letters, digits, '_', '/'; no long numbers)"
            )
        if value is not None:
            checked[key] = _number(value, f"{what}: {key}", range_of(key))
    return dict(sorted(checked.items()))


def check_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    site: str,
    models: Iterable[str],
    max_cases: int = _MAX_CASE,
) -> list[dict[str, Any]]:
    """Returns per-case rows as plain values, columns in the order given. Raises PrivacyRefused as
    `checked_rows`.
    """
    return list(checked_rows(rows, site=site, models=models, max_cases=max_cases))


def checked_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    site: str,
    models: Iterable[str],
    max_cases: int = _MAX_CASE,
) -> Iterator[dict[str, Any]]:
    """Yields per-case rows as plain values, columns in the order given, each checked as it comes.

    A row holds `model`, `site`, `case` (the case's running number from 1) and `grid` ("training" or
    "native"), may hold `class`, and beyond these only numbers, or None, under names made of the
    words in `WORDS`. There is one row for each model, case, grid and class.

    Args:
      max_cases: so many different cases a site can have.
    Raises:
      PrivacyRefused: naming row and column, never the content of a column that is not known to be
        harmless; also for a second row of the same case, and beyond MAX_ROWS rows or `max_cases`
        cases.
    """
    known_models, seen, cases = set(models), set[tuple[Any, ...]](), set[int]()
    for position, row in enumerate(rows, start=1):
        if position > MAX_ROWS:
            raise PrivacyRefused(
                f"more than {MAX_ROWS} rows; a site reports one per model, case and grid"
            )
        here = f"row {position}"
        if len(row) > _MAX_COLUMNS:
            raise PrivacyRefused(f"{here}: {len(row)} columns, at most {_MAX_COLUMNS} leave a site")
        for column in ("model", "site", "case", "grid"):
            if column not in row:
                raise PrivacyRefused(f"{here}: column {column!r} is missing")
        for column, allowed in (
            ("model", known_models),
            ("site", {site}),
            ("grid", GRIDS),
            ("class", CLASSES),
        ):
            if column in row and not (isinstance(row[column], str) and row[column] in allowed):
                raise PrivacyRefused(
                    f"{here}: column {column!r} is none of {', '.join(sorted(allowed))}"
                )
        case = row["case"]
        if isinstance(case, bool) or not isinstance(case, int) or not 1 <= case <= _MAX_CASE:
            raise PrivacyRefused(
                f"{here}: column 'case' is not a running number from 1 to {_MAX_CASE}; identifiers stay at the site"
            )
        cases.add(case)
        if len(cases) > max_cases:
            raise PrivacyRefused(
                f"{here}: more than {max_cases} cases; no site of this run has so many"
            )
        key = (row["model"], case, row["grid"], row.get("class"))
        if key in seen:
            raise PrivacyRefused(f"{here}: a second row of the same model, case, grid and class")
        seen.add(key)
        plain: dict[str, Any] = {}
        for number, (column, value) in enumerate(row.items(), start=1):
            if column in _TEXT_COLUMNS or column == "case":
                plain[column] = value
            elif not isinstance(column, str) or not column or not set(column.split("_")) <= WORDS:
                raise PrivacyRefused(
                    f"{here}: column {number} has an unknown name; known are words such as dice_pancreas, volume_ml_tumour"
                )
            else:
                plain[column] = (
                    None
                    if value is None
                    else _number(value, f"{here}: column {column!r}", _range_of(column.split("_")))
                )
        _check_counts(plain, here)
        yield plain


def _check_counts(row: Mapping[str, Any], here: str) -> None:
    for column, value in row.items():
        if value is None or column in _TEXT_COLUMNS or not _COUNTS & set(column.split("_")):
            continue
        if value != int(value):
            raise PrivacyRefused(f"{here}: column {column!r} is {value:g}; expected a whole number")
        for part, whole in _NO_MORE_THAN.items():
            most = row.get(whole + column.removeprefix(part)) if column.startswith(part) else None
            if most is not None and value > most:
                raise PrivacyRefused(
                    f"{here}: column {column!r} is {value:g}, more than the {most:g} in {whole + column.removeprefix(part)!r}"
                )


def _range_of(words: Iterable[str]) -> tuple[float, float]:
    return next((_RANGES[word] for word in words if word in _RANGES), _ANY)


def _number(value: Any, where: str, allowed: tuple[float, float]) -> float:
    # NumPy scalars count as numbers through __float__; strings have none, and bool is an int that
    # means something else.
    if (
        isinstance(value, (bool, str, bytes))
        or not hasattr(value, "__float__")
        or getattr(value, "ndim", 0)
    ):
        raise PrivacyRefused(f"{where} is not a number; only numbers leave a site")
    number = float(value)
    if not math.isfinite(number):
        raise PrivacyRefused(f"{where} is not finite; leave it out or report None")
    if not allowed[0] <= number <= allowed[1]:
        raise PrivacyRefused(f"{where} is {number:g}; expected {allowed[0]:g} to {allowed[1]:g}")
    return number
