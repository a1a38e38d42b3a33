"""Summarises per-case rows: means with intervals and numbers of cases, as tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.results import case_rows
from experiments.results.case_rows import CaseRow
from experiments.results.statistics import intervals
from experiments.results.statistics.intervals import Bounds, Interval
from runkit import markdown_tables
from runkit.classes import FOREGROUND

_SHARES: Bounds = (0.0, 1.0)
_BOUNDS: Mapping[str, Bounds] = {
    "dice": _SHARES,
    "nsd": _SHARES,
    "volume_error_ml": intervals.NO_BOUNDS,
}
_CSV_DIGITS = 6  # significant ones: more than any measure means, and few enough to read
_LENGTHS: Bounds = (0.0, None)  # of all other measures: lengths, volumes, counts, ratios


def of_rows(
    rows: Sequence[Mapping[str, Any]], *, strata: str | None = None
) -> dict[str, Interval | None]:
    """Returns column -> mean and interval over the cases with a score, None if there are none.

    If the cases show no spread (a single case, or equal scores), the interval follows from the
    measure's bounds; an end without a bound is None. Columns are ordered by measure, then class.

    Args:
      rows: rows of one model.
      strata: the column that names the group of a row, e.g. "site"; differences between groups do
        not count as spread.
    """
    found: dict[str, Interval | None] = {}
    for measure in case_rows.UNITS:
        for name in FOREGROUND.values():
            column = f"{measure}_{name}"
            if any(column in row for row in rows):
                scored = [row for row in rows if row.get(column) is not None]
                found[column] = (
                    intervals.mean_interval(
                        [row[column] for row in scored],
                        None if strata is None else [row[strata] for row in scored],
                        bounds=_BOUNDS.get(measure, _LENGTHS),
                    )
                    if scored
                    else None
                )
    return found


def by_model(rows: Iterable[CaseRow]) -> list[dict[str, Any]]:
    """Returns mean, interval and number of cases per model, site, grid and column."""
    groups: dict[tuple[str, str, str], list[CaseRow]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["site"], row["grid"]), []).append(row)
    return [
        {"model": model, "site": site, "grid": grid, **line}
        for (model, site, grid), own in groups.items()
        for line in lines(of_rows(own))
    ]


def lines(summary: Mapping[str, Interval | None]) -> list[dict[str, Any]]:
    """Returns one line per column: measure, class, unit, mean, low, high, cases.

    The numbers are None if no case has a score.
    """
    result = []
    for column, interval in summary.items():
        measure, _, name = column.rpartition("_")
        line: dict[str, Any] = {"measure": measure, "class": name, "unit": case_rows.UNITS[measure]}
        numbers = (
            (None, None, None, 0)
            if interval is None
            else (interval.estimate, interval.low, interval.high, interval.count)
        )
        result.append({**line, **dict(zip(("mean", "low", "high", "cases"), numbers, strict=True))})
    return result


def for_card(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Returns the scores for a model card: column -> mean, low, high, cases."""
    kept = ("dice", "hd95_mm", "nsd", "volume_error_ml")
    return {
        f"{line['measure']}_{line['class']}": {
            name: line[name] for name in ("mean", "low", "high", "cases")
        }
        for line in lines(of_rows(rows))
        if line["measure"] in kept
    }


def markdown(summary: Mapping[str, Interval | None]) -> str:
    """Returns the summary as a Markdown table, with the rule for absent classes."""
    rows = []
    for line in lines(summary):
        label = line["measure"].replace("_", " ") + (" (1/mm)" if line["unit"] == "1/mm" else "")
        mean = "" if line["mean"] is None else f"{line['mean']:.4g}"
        ends = ["?" if line[end] is None else f"{line[end]:.4g}" for end in ("low", "high")]
        interval = "" if line["mean"] is None else " to ".join(ends)
        rows.append([label, line["class"], mean, interval, str(line["cases"])])
    rule = (
        "A class that is in neither mask is not counted. A class that is in only one of them "
        "scores 0 in Dice and surface Dice, and the diagonal of the volume in HD95."
    )
    if any("?" in row[3] for row in rows):
        rule += " ? stands for an end of an interval that these cases do not determine."
    table = markdown_tables.lines(["measure", "class", "mean", "95 % interval", "cases"], rows)
    return "\n".join([*table, "", rule]) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as CSV: a missing number is an empty cell, others have six significant digits.

    Full precision stays in the JSON files, from which tables are computed and verified.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else _shortened(value) for key, value in row.items()}
        for row in rows
    )
    return text.getvalue()


def _shortened(value: Any) -> Any:
    return float(f"{value:.{_CSV_DIGITS}g}") if isinstance(value, float) else value
