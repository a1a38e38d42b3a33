"""Checks a cohort report from another site, so that only checked values are shown or used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preprocessing.checks import cohort, cohort_counts, older_reports

_LONGEST_NAME = 200
_MOST = 10**15


def check(report: Any) -> None:
    """Checks that everything a comparison shows is present and valid, and agrees with the rest.

    Raises:
      ValueError: naming the first part that is not as `cohort.summarise` writes it, or the numbers
        that contradict each other, and the site.
    """
    try:
        _check(report)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"lacks {error}" if isinstance(error, KeyError) else str(error)) from error


def _check(report: Mapping[str, Any]) -> None:
    if type(report["format"]) is not int or report["format"] not in cohort.READABLE:
        raise ValueError(f"its format is {str(report['format'])[:40]!r}")
    if not _name(report["site"]):
        raise ValueError(f"its site is {str(report['site'])[:40]!r}")
    for part in ("rules", "axes", "splits"):
        if part != "splits" or report[part] is not None:
            for name, count in report[part].items():
                if not _name(name):
                    raise ValueError(f"a name in its {part} is {str(name)[:40]!r}")
                if type(count) is not int or not 0 <= count <= _MOST:
                    raise ValueError(f"its {part} is {str(count)[:40]!r}")
    if report["format"] in older_reports.FORMATS:
        older_reports.check(report)
    else:
        cohort_counts.of_report(report)


def _name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= _LONGEST_NAME
