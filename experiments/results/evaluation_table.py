"""The table of an evaluation: k models by m sites, with intervals; rows in, values out.

Every number for a site is a mean over its cases. Every number for all sites together is the mean
over all cases, so that each site counts by its number of cases. Intervals are over patients;
differences between sites do not count as spread (`intervals.mean_interval`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.results import case_rows, score_summary, table1_values
from experiments.results.case_rows import CaseRow
from runkit.classes import FOREGROUND

ALL = "all sites"
# Keys of a line: model, site (or ALL), grid, measure, class, unit, mean, low, high, cases.
Line = dict[str, Any]


def lines(rows: Iterable[CaseRow]) -> list[Line]:
    """Returns one line per model, site, grid and column of the rows, in the table's order.

    With several sites, `ALL` follows them. The numbers are None where no case has a score. If
    several rows have the same model, site, case and grid, the last one counts.
    """
    latest = {(row["model"], row["site"], row["grid"], row["case"]): row for row in rows}
    groups: dict[tuple[str, str, str], list[CaseRow]] = {}
    for (model, site, grid, _), row in sorted(latest.items()):
        for group in (site, ALL):
            groups.setdefault((model, group, grid), []).append(row)
    several = len({site for _, site, _, _ in latest}) > 1

    def place(key: tuple[str, str, str]) -> tuple[tuple[int, str], bool, str, int]:
        model, site, grid = key
        return table1_values.position(model), site == ALL, site, table1_values.GRIDS.index(grid)

    return [
        {"model": model, "site": site, "grid": grid, **line}
        for model, site, grid in sorted(groups, key=place)
        if several or site != ALL
        for line in score_summary.lines(
            score_summary.of_rows(groups[model, site, grid], strata="site")
        )
    ]


def gaps(
    rows: Iterable[CaseRow], models: Iterable[str], sites: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Returns site -> model -> number of the site's test cases without a row, where above 0.

    A site may leave out models or cases, by accident or on purpose, and so influence a model's
    mean. The cases of a site are taken to be those with at least one row, but no fewer than the
    site announced.

    Args:
      models: those that every site was asked to score.
      sites: site -> number of its test cases, 0 if unknown.
    """
    found: dict[str, dict[str, set[int]]] = {site: {} for site in sites}
    for row in rows:
        if row["grid"] == "training" and row["site"] in found:
            found[row["site"]].setdefault(row["model"], set()).add(row["case"])
    missing = {}
    for site, own in found.items():
        number = max(sites[site], len(set().union(*own.values())))
        lacking = {model: number - len(own.get(model, ())) for model in models}
        missing[site] = {model: count for model, count in lacking.items() if count}
    return {site: counts for site, counts in missing.items() if counts}


def cells(found: Sequence[Line], *, measure: str, grid: str) -> dict[str, dict[str, Line]]:
    """Returns model -> "<site> <class>" -> line, for one measure on one grid.

    Every model has the same columns in the same order; a missing one has no number.
    """
    models = list(dict.fromkeys(line["model"] for line in found))
    sites = list(dict.fromkeys(line["site"] for line in found if line["site"] != ALL))
    sites += [ALL] if any(line["site"] == ALL for line in found) else []
    known = {
        (line["model"], line["site"], line["class"]): line
        for line in found
        if line["measure"] == measure and line["grid"] == grid
    }
    nothing = {"mean": None, "low": None, "high": None, "cases": 0}
    return {
        model: {
            f"{site} {name}": known.get(
                (model, site, name), {"unit": case_rows.UNITS[measure], **nothing}
            )
            for site in sites
            for name in FOREGROUND.values()
        }
        for model in models
    }
