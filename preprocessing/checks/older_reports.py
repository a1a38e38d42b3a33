"""Cohort reports of formats 1 and 2, which earlier releases wrote.

They hold percentiles, ranges and histograms. They are checked and compared; a plan needs the counts
of format 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from preprocessing.checks.survey import HU_EDGES
from runkit.classes import FOREGROUND

FORMATS = (1, 2)
_MOST = 1e15  # largest absolute value of any number in a report
_EDGES = {
    "volume_ml": ("cases", tuple(range(0, 201, 10))),
    "hu": ("share", HU_EDGES),
}
_RANGE = ("lowest", "median", "highest")
_LEVELS = ("p5", "median", "p95")  # the percentiles that are shown
_Check = Callable[[Any], bool]


def check(report: Mapping[str, Any]) -> None:
    """Checks the parts of a report that a comparison shows and that format 3 does not have.

    Raises:
      AttributeError, KeyError, TypeError, ValueError: if one is missing or not as it was written.
    """
    for key in ("usable", "refused", "without_label", "with_tumour"):
        _require(f"cases.{key}", report["cases"][key], _count)
    for part in ("rules", "axes"):
        _require(part, list(report[part].values()), lambda counts: all(map(_count, counts)))
    for axis in "xyz":
        for part, levels in (("spacing_mm", _RANGE), ("extent_mm", _LEVELS)):
            if report[part][axis] is not None:
                _levels(f"{part}.{axis}", report[part][axis], levels, lambda v: v > 0)
    for name in FOREGROUND.values():
        if (name in report["volume_ml"]) != (name in report["hu"]):
            raise ValueError(f"{name} is in one of volume_ml and hu only")
        if name in report["volume_ml"]:
            _class(report, name)


def levels(report: Mapping[str, Any], quantity: str, name: str) -> tuple[float, ...] | None:
    """Returns a low value, the median and a high value of a quantity; None where it has none."""
    if quantity == "median_hu":
        value = report["hu"].get(name, {}).get("median_of_case")
    else:
        value = report[quantity].get(name)
    if value is None or "median" not in value:
        return None
    return tuple(value[key] for key in (_RANGE if quantity == "spacing_mm" else _LEVELS))


def _class(report: Mapping[str, Any], name: str) -> None:
    volumes, hu = report["volume_ml"][name], report["hu"][name]
    _levels(f"volume_ml.{name}", volumes, _LEVELS, lambda v: v > 0)
    _levels(f"hu.{name}.median_of_case", hu["median_of_case"], _LEVELS)
    if "median" in hu:  # left out where every bin is withheld
        _levels(f"hu.{name}", hu, _LEVELS)
    for part, value in (("volume_ml", volumes), ("hu", hu)):
        counted, edges = _EDGES[part]
        what, histogram = f"{part}.{name}.histogram", value["histogram"]
        if histogram["edges"] != list(edges):
            raise ValueError(f"its {what}.edges is {str(histogram['edges'])[:40]!r}")
        bins = histogram[counted]
        if len(bins) != len(edges) - 1:
            raise ValueError(f"its {what}.{counted} has {len(bins)} bins")
        for count in bins:
            _require(f"{what}.{counted}", count, lambda c: c is None or (_number(c) and c >= 0))


def _levels(
    what: str, value: Mapping[str, Any], names: tuple[str, ...], also: _Check = lambda v: True
) -> None:
    for name in names:
        _require(f"{what}.{name}", value[name], lambda v: _number(v) and also(v))


def _require(what: str, value: Any, holds: _Check) -> None:
    if not holds(value):
        raise ValueError(f"its {what} is {str(value)[:40]!r}")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _MOST and not math.isnan(value)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST
