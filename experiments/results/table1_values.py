"""Table 1 as a value: per-case rows in, means in per cent out.

A row is what a site reports for one model on one of its test cases, see `case_rows.CaseRow`. Its
Dice is 0 to 1, or None if the class is in neither the truth nor the prediction; means leave such
cases out.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiments.results import case_rows, gated_rows, shared_choice
from experiments.results.case_rows import CaseRow
from experiments.results.report_words import REPORTS
from runkit import atomic, json_text, printable

COLUMNS = ("C1_pancreas", "C2_pancreas", "C2_tumour", "pancreas_average", "average")
MODELS = ("C1_baseline", "C2_baseline", "C1_FL_local", "C2_FL_local", "FL_global")
AVERAGE = "Average"
BEST_GLOBAL = "FL_best_global"
ROWS = (*MODELS, AVERAGE, BEST_GLOBAL)
# Rows beyond the paper, by the same definitions: training on both sites' data in one place, one
# site's baseline fine-tuned at the other, and the federation without the VAE branch.
POOLED, C1_TO_C2, C2_TO_C1, NO_VAE = (
    "pooled",
    "finetuned_C1_to_C2",
    "finetuned_C2_to_C1",
    "FL_global_no_vae",
)
SHARED = "C1_FL_local_shared"  # chosen by the validation of both sites, see `shared_choice`
BEYOND = (SHARED, POOLED, C1_TO_C2, C2_TO_C1, NO_VAE)
SITES = ("C1", "C2")
GRIDS = ("training", "native")

_LONGEST_NAME = 200  # characters
PAPER_TEST_CASES = {"C1": 84, "C2": 100}
# As printed in Wang, Shen, Roth et al. 2020, Table 1. Its bottom row is not the mean of the five
# rows above it.
PAPER_TABLE: dict[str, dict[str, float]] = {
    name: dict(zip(COLUMNS, values, strict=True))
    for name, values in {
        "C1_baseline": (81.5, 42.4, 0.0, 60.3, 30.1),
        "C2_baseline": (64.7, 65.4, 54.5, 65.1, 59.8),
        "C1_FL_local": (81.6, 65.2, 50.2, 72.7, 61.4),
        "C2_FL_local": (81.6, 66.2, 52.6, 73.2, 62.9),
        "FL_global": (82.3, 65.4, 46.4, 73.1, 59.8),
        AVERAGE: (78.3, 60.7, 38.3, 68.7, 53.5),
    }.items()
}


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One row of the table.

    Attributes:
      percent: column -> mean Dice in per cent; None if no case contributes, or if a column that
        this one combines is None.
      cases: column -> number of cases in the mean, without cases where the class is absent; 0 for
        the row of means and the column "average", which combine means.
    """

    percent: Mapping[str, float | None]
    cases: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One claim of the paper, compared with a table.

    Attributes:
      claim: the claim, as a sentence.
      holds: whether it holds; None if the table lacks a number.
      numbers: the numbers that decide it, in per cent.
    """

    claim: str
    holds: bool | None
    numbers: Mapping[str, float | None]


def read_rows(path: str | os.PathLike, *, any_site: bool = False) -> list[CaseRow]:
    """Reads the per-case rows of a JSON-lines file, and applies the choices that follow from them.

    Of the candidates for a shared choice, only the chosen one is returned, under the name of its
    row (see `shared_choice`). Validation cases are used, but not returned; each model for which
    they yield a healthy gate also has rows with the gate (see `gated_rows`). If a case has several
    rows of the same model and grid, only the last one is returned: no case counts twice.

    Args:
      path: the file.
      any_site: whether to accept sites for which Table 1 has no column.
    Raises:
      ValueError: naming the file, the line and the key, if a line is not a valid row.
    """
    latest = {
        (row["model"], row["site"], row["case"], row["grid"]): row
        for row in rows_as_sent(path, any_site=any_site)
    }
    return gated_rows.resolve(shared_choice.resolve(latest.values()))


def rows_as_sent(path: str | os.PathLike, *, any_site: bool = False) -> list[CaseRow]:
    """Reads the per-case rows of a JSON-lines file as the sites sent them.

    Args and errors are those of `read_rows`.
    """
    path = pathlib.Path(path)
    rows: list[CaseRow] = []
    lines = atomic.read_bytes(path).decode("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json_text.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: not valid JSON ({error}); have the site evaluate its "
                "models again"
            ) from error
        _check_row(row, f"{path}, line {number}", any_site, (*GRIDS, shared_choice.GRID))
        rows.append(row)
    return rows


def check_rows(rows: Iterable[Any], where: str) -> None:
    """Raises ValueError, which begins with `where`, if a value is not a row of Table 1."""
    for number, row in enumerate(rows, start=1):
        _check_row(row, f"{where}, row {number}")


def table(rows: Iterable[CaseRow], grid: str = "training") -> dict[str, TableRow]:
    """Computes the table from per-case rows.

    C1 pancreas, C2 pancreas and C2 tumour are means over cases. The pancreas average is the mean
    over the test cases of both sites, so that each site counts by its number of cases. Average is
    the mean of pancreas average and C2 tumour. The row "Average" is the mean of the rows of the
    five models; `FL_best_global` is not part of it.

    Args:
      rows: per-case rows, in any order. A later row of the same model, site, case and grid replaces
        an earlier one, because an interrupted site may report twice.
      grid: the grid whose rows count, "training" or "native".
    Returns:
      Name -> row, in the paper's order, then the models that the paper does not have. A model
      without rows is absent, and so is "Average" unless all five models are present.
    Raises:
      ValueError: for an unknown grid, or a row with a missing key or an unknown site or grid.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid is {grid!r}; expected one of {GRIDS}")
    rows = list(rows)
    for row in rows:
        _check_row(row, "per-case row")
    latest = case_rows.latest(rows, grid)
    result: dict[str, TableRow] = {}
    for name in (*ROWS, *sorted({model for model, _, _ in latest} - set(ROWS), key=position)):
        if name == AVERAGE:
            if all(model in result for model in MODELS):
                result[AVERAGE] = _mean_row([result[model] for model in MODELS])
            continue
        own = [row for (model, _, _), row in sorted(latest.items()) if model == name]
        if own:
            result[name] = _model_row(own)
    return result


def findings(lines: Mapping[str, TableRow]) -> dict[str, Finding]:
    """Compares the paper's four findings with a table."""

    def value(name: str, column: str) -> float | None:
        return lines[name].percent[column] if name in lines else None

    baselines = [value("C1_baseline", "average"), value("C2_baseline", "average")]
    baseline_mean = _mean(baselines)

    def verdict(
        claim: str, numbers: dict[str, float | None], holds: Callable[..., bool]
    ) -> Finding:
        return Finding(claim, None if None in numbers.values() else bool(holds(**numbers)), numbers)

    return {
        "c1_baseline_finds_no_tumour": verdict(
            "C1_baseline, which never saw a tumour, has a tumour Dice of 0.0 on C2 (to the printed "
            "digit)",
            {"C2_tumour": value("C1_baseline", "C2_tumour")},
            lambda C2_tumour: C2_tumour < 0.05,
        ),
        "baselines_drop_on_the_other_site": verdict(
            "each baseline has a lower pancreas Dice on the other site's test cases than on its "
            "own",
            {
                "C1_baseline_on_C1": value("C1_baseline", "C1_pancreas"),
                "C1_baseline_on_C2": value("C1_baseline", "C2_pancreas"),
                "C2_baseline_on_C2": value("C2_baseline", "C2_pancreas"),
                "C2_baseline_on_C1": value("C2_baseline", "C1_pancreas"),
            },
            lambda C1_baseline_on_C1, C1_baseline_on_C2, C2_baseline_on_C2, C2_baseline_on_C1: (
                C1_baseline_on_C2 < C1_baseline_on_C1 and C2_baseline_on_C1 < C2_baseline_on_C2
            ),
        ),
        "fl_local_models_beat_the_baselines": verdict(
            "C1_FL_local and C2_FL_local each have a higher Average than the mean of the two "
            "baselines",
            {
                "C1_FL_local": value("C1_FL_local", "average"),
                "C2_FL_local": value("C2_FL_local", "average"),
                "mean_of_baselines": baseline_mean,
            },
            lambda C1_FL_local, C2_FL_local, mean_of_baselines: (
                min(C1_FL_local, C2_FL_local) > mean_of_baselines
            ),
        ),
        "fl_global_beats_the_baselines": verdict(
            "FL_global has a higher Average than the mean of the two baselines",
            {"FL_global": value("FL_global", "average"), "mean_of_baselines": baseline_mean},
            lambda FL_global, mean_of_baselines: FL_global > mean_of_baselines,
        ),
    }


def false_tumours(rows: Iterable[CaseRow]) -> dict[str, tuple[int, int]]:
    """Returns model -> (healthy cases with a marked tumour, healthy cases), in table order."""
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row["grid"] == "training" and case_rows.has_tumour(row) is False:
            marked, healthy = counts.get(row["model"], (0, 0))
            counts[row["model"]] = (marked + case_rows.marks_tumour(row), healthy + 1)
    return {name: counts[name] for name in sorted(counts, key=position)}


def _check_row(row: Any, where: str, any_site: bool = False, grids: Sequence[str] = GRIDS) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where}: {_shown(row)} is not a per-case row; have the site evaluate its models again"
        )
    empty = [key for key in case_rows.NEVER_EMPTY if row.get(key, 0.0) is None]
    missing = [key for key in case_rows.REQUIRED if key not in row]
    if missing or empty:
        raise ValueError(
            f"{where}: the row of case {_shown(row.get('case'))} lacks "
            f"{', '.join(missing + empty)}; have the site evaluate its models again"
        )
    for key in ("model", "site", "grid"):
        if not isinstance(row[key], str) or not 0 < len(row[key]) <= _LONGEST_NAME:
            raise ValueError(
                f"{where}: {key} is {_shown(row[key])}; expected a name; have the site evaluate "
                "its models again"
            )
    for key, known in (("grid", grids),) if any_site else (("site", SITES), ("grid", grids)):
        if row[key] not in known:
            raise ValueError(
                f"{where}: {key} is {_shown(row[key])}; Table 1 knows {', '.join(known)}"
            )
    _check_numbers(row, where)


def _shown(value: object) -> str:
    return printable.text(repr(value))


def _check_numbers(row: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a number that cannot be: it would make means wrong.

    What the server accepts from a site is in these ranges; a file may hold anything.
    """
    for key, value in row.items():
        if key in ("model", "site", "grid", "class") or (value is None and key != "case"):
            continue
        kinds = int if key == "case" else (int, float)
        expected = ""
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            expected = "a running number" if key == "case" else "a finite number or null"
        elif key == "case":
            expected = "" if value >= 1 else "a running number"
        elif REPORTS.has_column(key):
            low, high = REPORTS.range_of(key) or (-math.inf, math.inf)
            whole = row.get(REPORTS.whole_of(key) or "")
            if not low <= value <= high:
                expected = f"{low:g} to {high:g}"
            elif REPORTS.is_count(key) and value != int(value):
                expected = "a whole number"
            elif isinstance(whole, int | float) and value > whole:
                expected = f"at most {_shown(whole)}, as {REPORTS.whole_of(key)}"
        if expected:
            raise ValueError(
                f"{where}: {printable.text(key)} is {_shown(value)}; expected {expected}; "
                "have the site evaluate its models again"
            )


def _model_row(rows: Sequence[CaseRow]) -> TableRow:
    cells = {
        "C1_pancreas": ("C1", "dice_pancreas"),
        "C2_pancreas": ("C2", "dice_pancreas"),
        "C2_tumour": ("C2", "dice_tumour"),
    }
    percent: dict[str, float | None] = {}
    cases: dict[str, int] = {}
    for column, (site, key) in cells.items():
        found = (case_rows.value(row, key) for row in rows if row["site"] == site)
        values = [value for value in found if value is not None]
        percent[column] = 100.0 * sum(values) / len(values) if values else None
        cases[column] = len(values)
    pancreas = _pooled(percent, cases)
    percent["pancreas_average"] = pancreas
    percent["average"] = _mean([pancreas, percent["C2_tumour"]])
    cases["pancreas_average"] = (
        cases["C1_pancreas"] + cases["C2_pancreas"] if pancreas is not None else 0
    )
    cases["average"] = 0
    return TableRow(percent, cases)


def _pooled(percent: Mapping[str, float | None], cases: Mapping[str, int]) -> float | None:
    """Returns the mean pancreas Dice over the cases of both sites; None unless both contribute."""
    one, other = percent["C1_pancreas"], percent["C2_pancreas"]
    ones, others = cases["C1_pancreas"], cases["C2_pancreas"]
    if one is None or other is None:
        return None
    return (ones * one + others * other) / (ones + others)


def _mean_row(rows: Sequence[TableRow]) -> TableRow:
    percent = {column: _mean([row.percent[column] for row in rows]) for column in COLUMNS}
    return TableRow(percent, dict.fromkeys(COLUMNS, 0))


def _mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean; None if a value is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def position(name: str) -> tuple[int, str]:
    """Returns a sort key: the table's order, other models by name, then the same for gated ones."""
    known, base = (*ROWS, *BEYOND), name.removesuffix(gated_rows.SUFFIX)
    place = known.index(base) if base in known else len(known)
    return (place + (base != name) * (len(known) + 1), name)
