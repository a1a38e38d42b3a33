"""Checks a cohort report from another site, so that only checked values are shown or used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from preprocessing.checks import cohort
from preprocessing.checks.survey import HU_EDGES
from runkit.classes import FOREGROUND

_LONGEST_NAME = 200
_MOST = 1e15  # largest absolute value of any number in a report
_EDGES = {
    "volume_ml": ("cases", cohort.VOLUME_EDGES_ML),
    "hu": ("share", HU_EDGES),
}
_LEVELS = ("p5", "median", "p95")  # the percentiles that are shown
_Check = Callable[[Any], bool]


def check(report: Any) -> None:
    """Checks that everything a comparison shows is present and valid.

    The part `sums` is checked where it is used, by `cohort_sums.of_report`.

    Raises:
      ValueError: naming the first part that is not as `cohort.summarise` writes it.
    """
    try:
        _check(report)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"lacks {error}" if isinstance(error, KeyError) else str(error)) from error


def _check(report: Mapping[str, Any]) -> None:
    if type(report["format"]) is not int or report["format"] not in cohort.READABLE:
        raise ValueError(f"its format is {str(report['format'])[:40]!r}")
    _require("site", report["site"], _name)
    for key in ("listed", "usable", "refused", "without_label", "with_tumour"):
        _require(f"cases.{key}", report["cases"][key], _count)
    for part in ("rules", "axes", "splits"):
        if part != "splits" or report[part] is not None:
            _require(part, list(report[part].values()), lambda counts: all(map(_count, counts)))
            _require(f"{part} names", list(report[part]), lambda names: all(map(_name, names)))
    for axis in "xyz":
        for part, levels in (
            ("spacing_mm", ("lowest", "median", "highest")),
            ("shape", _LEVELS),
            ("extent_mm", _LEVELS),
        ):
            if report[part][axis] is not None:
                _levels(f"{part}.{axis}", report[part][axis], levels, lambda v: v > 0)
    for name in FOREGROUND.values():
        if (name in report["volume_ml"]) != (name in report["hu"]):
            raise ValueError(f"{name} is in one of volume_ml and hu only")
        if name in report["volume_ml"]:
            _class(report, name)


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


def _name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= _LONGEST_NAME


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST
