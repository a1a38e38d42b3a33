"""Per-case rows as means with their intervals and numbers of cases, as tables. Knows no network and
no scan.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.results import case_rows, intervals
from experiments.results.intervals import Bounds, Interval
from runkit.classes import FOREGROUND

_SHARES: Bounds = (0.0, 1.0)
_BOUNDS: Mapping[str, Bounds] = {
    "dice": _SHARES,
    "nsd": _SHARES,
    "volume_error_ml": intervals.NO_BOUNDS,
}
_LENGTHS: Bounds = (0.0, None)  # and volumes, parts, ratios: all others


def of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Interval | None]:
    """Returns column -> its mean over the cases that have a score, with its interval; None for a
    column without one.

    Where the cases show no spread (one case, or all alike) an end is as far as the measure's bounds
    allow, and None where it has none. Columns stand in the order measure, class.
    """
    found: dict[str, Interval | None] = {}
    for measure in case_rows.UNITS:
        for name in FOREGROUND.values():
            column = f"{measure}_{name}"
            if any(column in row for row in rows):
                values = [row[column] for row in rows if row.get(column) is not None]
                found[column] = (
                    intervals.mean_interval(values, bounds=_BOUNDS.get(measure, _LENGTHS))
                    if values
                    else None
                )
    return found


def by_model(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns one line a model, site, grid and column of a federation's rows: mean, interval,
    number of cases.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["site"], row["grid"]), []).append(row)
    return [
        {"model": model, "site": site, "grid": grid, **line}
        for (model, site, grid), own in groups.items()
        for line in lines(of_rows(own))
    ]


def lines(summary: Mapping[str, Interval | None]) -> list[dict[str, Any]]:
    """Returns a line a column for a table: measure, class, mean, low, high, cases; numbers absent
    where there is no case.
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
    """Returns the scores of a model card: column -> mean, low, high, cases (see c2fnas.model_card)."""
    kept = ("dice", "hd95_mm", "nsd", "volume_error_ml")
    return {
        f"{line['measure']}_{line['class']}": {
            name: line[name] for name in ("mean", "low", "high", "cases")
        }
        for line in lines(of_rows(rows))
        if line["measure"] in kept
    }


def markdown(summary: Mapping[str, Interval | None]) -> str:
    """Returns the summary as a Markdown table with the rule that stands behind it."""
    text = ["| measure | class | mean | 95 % interval | cases |", "|---|---|---|---|---|"]
    for line in lines(summary):
        label = line["measure"].replace("_", " ") + (" (1/mm)" if line["unit"] == "1/mm" else "")
        mean = "" if line["mean"] is None else f"{line['mean']:.4g}"
        ends = ["?" if line[end] is None else f"{line[end]:.4g}" for end in ("low", "high")]
        interval = "" if line["mean"] is None else " to ".join(ends)
        text.append(f"| {label} | {line['class']} | {mean} | {interval} | {line['cases']} |")
    rule = (
        "A class that neither mask holds does not count; one that only one of them holds scores 0 in Dice and surface Dice and the "
        "diagonal of the volume in HD95."
    )
    return "\n".join([*text, "", rule]) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as CSV; an absent number is an empty cell."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else value for key, value in row.items()} for row in rows
    )
    return text.getvalue()
