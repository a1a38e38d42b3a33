"""What may leave a site in a report: numbers under known names. Both ends pass every report through this gate."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from federated.errors import PrivacyRefused

GRIDS = ("training", "native")
CLASSES = ("pancreas", "tumour")
# Column names are words of this list joined by "_", so that no identifier can hide in a name.
MEASURES = frozenset({"dice", "hd95", "nsd", "surface", "volume", "voxels", "components", "ratio", "sensitivity", "precision", "seconds"})
QUALIFIERS = frozenset(
    {"truth", "reference", "predicted", "difference", "error", "absolute", "relative", "ml", "mm", "percent", "foreground"}
)
WORDS = MEASURES | QUALIFIERS | frozenset(CLASSES)
_TEXT_COLUMNS = ("model", "site", "grid", "class")
_MAX_CASE = 100_000
_MAX_ROWS = 200_000
_METRIC = re.compile(r"[a-zA-Z][a-zA-Z0-9_/]{0,63}")
_LONG_NUMBER = re.compile(r"[0-9]{4}")  # a name is no place for a date or a record number
_MAX_METRICS = 64


def check_metrics(metrics: Mapping[str, Any], *, what: str) -> dict[str, float]:
    """Returns `metrics` as plain floats in the order of their names, since a protobuf map keeps none; None means no value and is left out.

    Raises:
      PrivacyRefused: for more than 64 of them, a key that is no short metric name, or a value that is no finite number.
    """
    if len(metrics) > _MAX_METRICS:
        raise PrivacyRefused(f"{what}: {len(metrics)} values, at most {_MAX_METRICS} leave a site")
    checked = {}
    for number, (key, value) in enumerate(metrics.items(), start=1):
        if not isinstance(key, str) or not _METRIC.fullmatch(key) or _LONG_NUMBER.search(key):
            raise PrivacyRefused(f"{what}: the name of value {number} is not a metric name (letters, digits, '_', '/'; no long numbers)")
        if value is not None:
            checked[key] = _finite(value, f"{what}: {key}")
    return dict(sorted(checked.items()))


def check_rows(rows: Iterable[Mapping[str, Any]], *, site: str, models: Iterable[str]) -> list[dict[str, Any]]:
    """Returns per-case rows as plain values, columns in the order given.

    A row holds `model`, `site`, `case` (the case's running number from 1) and `grid` ("training" or "native"), may hold
    `class`, and beyond these only numbers, or None, under names made of the words in `WORDS`.

    Raises:
      PrivacyRefused: naming row and column, never the content of a column that is not known to be harmless.
    """
    known_models, checked = set(models), []
    for position, row in enumerate(rows, start=1):
        if position > _MAX_ROWS:
            raise PrivacyRefused(f"more than {_MAX_ROWS} rows; a site reports one per model, case and grid")
        here = f"row {position}"
        for column in ("model", "site", "case", "grid"):
            if column not in row:
                raise PrivacyRefused(f"{here}: column {column!r} is missing")
        for column, allowed in (("model", known_models), ("site", {site}), ("grid", GRIDS), ("class", CLASSES)):
            if column in row and not (isinstance(row[column], str) and row[column] in allowed):
                raise PrivacyRefused(f"{here}: column {column!r} is none of {', '.join(sorted(allowed))}")
        case = row["case"]
        if isinstance(case, bool) or not isinstance(case, int) or not 1 <= case <= _MAX_CASE:
            raise PrivacyRefused(f"{here}: column 'case' is not a running number from 1 to {_MAX_CASE}; identifiers stay at the site")
        plain: dict[str, Any] = {}
        for number, (column, value) in enumerate(row.items(), start=1):
            if column in _TEXT_COLUMNS or column == "case":
                plain[column] = value
            elif not isinstance(column, str) or not column or not set(column.split("_")) <= WORDS:
                raise PrivacyRefused(
                    f"{here}: column {number} has an unknown name; known are words such as dice_pancreas, volume_ml_tumour"
                )
            else:
                plain[column] = None if value is None else _finite(value, f"{here}: column {column!r}")
        checked.append(plain)
    return checked


def _finite(value: Any, where: str) -> float:
    # NumPy scalars count as numbers through __float__; strings have none, and bool is an int that means something else.
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__") or getattr(value, "ndim", 0):
        raise PrivacyRefused(f"{where} is not a number; only numbers leave a site")
    number = float(value)
    if not math.isfinite(number):
        raise PrivacyRefused(f"{where} is not finite; leave it out or report None")
    return number
