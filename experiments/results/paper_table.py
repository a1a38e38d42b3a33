"""Table 1 as a value: per-case rows in, means in per cent out. Knows no network, no picture and no
layout.

A row is what a site reports for one model on one of its test cases: `model`, `site` ("C1" or "C2"),
`case` (running number in the site's cohort), `grid` ("training" or "native"), `dice_pancreas` and
`dice_tumour` (0 to 1, or None where the class is in neither the truth nor the prediction: such a
case does not count in the mean), `volume_ml_*` and `truth_ml_*`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.results import gated_rows, shared_choice

COLUMNS = ("C1_pancreas", "C2_pancreas", "C2_tumour", "pancreas_average", "average")
MODELS = ("C1_baseline", "C2_baseline", "C1_FL_local", "C2_FL_local", "FL_global")
AVERAGE = "Average"
BEST_GLOBAL = "FL_best_global"
ROWS = (*MODELS, AVERAGE, BEST_GLOBAL)
# Rows that the paper does not have, by the same definitions: both sites' data in one place, one
# site's baseline trained on at the other, and the federation without the VAE branch.
POOLED, C1_TO_C2, C2_TO_C1, NO_VAE = (
    "pooled",
    "finetuned_C1_to_C2",
    "finetuned_C2_to_C1",
    "FL_global_no_vae",
)
SHARED = "C1_FL_local_shared"  # chosen by both sites' validation, see `shared_choice`
BEYOND = (SHARED, POOLED, C1_TO_C2, C2_TO_C1, NO_VAE)
SITES = ("C1", "C2")
GRIDS = ("training", "native")

ROW_KEYS = (
    *("model", "site", "case", "grid", "dice_pancreas", "dice_tumour"),
    *("volume_ml_pancreas", "volume_ml_tumour", "truth_ml_pancreas", "truth_ml_tumour"),
)

PAPER_TEST_CASES = {"C1": 84, "C2": 100}
# As printed in Wang, Shen, Roth et al. 2020, Table 1; its bottom row included, which is not the
# mean of the five above it.
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
    """One line of the table.

    Attributes:
      percent: column -> mean Dice in per cent; None where no case, or not every column it is made
          of, contributes.
      cases: column -> number of cases behind the mean, absent classes left out (0 for the row of
        means and the column "average", which are made of means).
    """

    percent: Mapping[str, float | None]
    cases: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One claim of the paper held against a table.

    Attributes:
      claim: the claim, as a sentence.
      holds: True or False; None where the table lacks a number it needs.
      numbers: the numbers that decided, in per cent.
    """

    claim: str
    holds: bool | None
    numbers: Mapping[str, float | None]


def read_rows(path: str | os.PathLike, *, any_site: bool = False) -> list[dict[str, Any]]:
    """Reads per-case rows from a JSON-lines file; with `any_site` also those of sites that Table 1
    has no column for.

    Of the candidates for a shared choice only the chosen one is left, under its row's name; see
    `shared_choice`. Rows of validation cases are used and left out, and every model for which they
    fit a healthy gate has its rows with it too; see `gated_rows`.

    Raises:
      ValueError: naming the file, the line and the key where a line is no JSON object or lacks a
          key of a row.
    """
    path, rows = pathlib.Path(path), []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not valid JSON ({error}); have the site evaluate its models again"
            ) from error
        _check_row(row, f"{path}, line {number}", any_site, (*GRIDS, shared_choice.GRID))
        rows.append(row)
    return gated_rows.resolve(shared_choice.resolve(rows))


def table(rows: Iterable[Mapping[str, Any]], grid: str = "training") -> dict[str, TableRow]:
    """Computes the table from per-case rows.

    C1 pancreas, C2 pancreas and C2 tumour are means over cases; the pancreas average is the mean
    over all test cases of both sites, which weights the sites by their numbers of cases; Average is
    the mean of the pancreas average and C2 tumour. The row "Average" is the mean of the five
    models' rows. `FL_best_global` stands beneath it and is not part of it.

    Args:
      rows: per-case rows, in any order. A row of the same model, site, case and grid as an earlier
        one replaces it: a site that was interrupted may have reported twice.
      grid: the grid whose rows count, "training" or "native".
    Returns:
      Row name -> row, in the paper's order; models that the paper does not have stand last. A model
      without rows is absent, and so is "Average" unless all five models are there.
    Raises:
      ValueError: for an unknown grid, or a row that lacks a key or is of an unknown site or grid.
    """
    if grid not in GRIDS:
        raise ValueError(f"grid is {grid!r}; expected one of {GRIDS}")
    latest: dict[tuple[str, str, int], Mapping[str, Any]] = {}
    for row in rows:
        _check_row(row, "per-case row")
        if row["grid"] == grid:
            latest[row["model"], row["site"], row["case"]] = row
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
    """Holds the paper's four findings against a table; a finding whose numbers are missing neither
    holds nor fails.
    """

    def value(name: str, column: str) -> float | None:
        return lines[name].percent[column] if name in lines else None

    baselines = [value("C1_baseline", "average"), value("C2_baseline", "average")]
    baseline_mean = None if None in baselines else sum(baselines) / 2.0

    def verdict(claim: str, numbers: dict[str, float | None], holds) -> Finding:
        return Finding(claim, None if None in numbers.values() else bool(holds(**numbers)), numbers)

    return {
        "c1_baseline_finds_no_tumour": verdict(
            "C1_baseline, which never saw a tumour, has a tumour Dice of 0.0 on C2 (to the printed digit)",
            {"C2_tumour": value("C1_baseline", "C2_tumour")},
            lambda C2_tumour: C2_tumour < 0.05,
        ),
        "baselines_drop_on_the_other_site": verdict(
            "each baseline has a lower pancreas Dice on the other site's test cases than on its own",
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
            "C1_FL_local and C2_FL_local each have a higher Average than the mean of the two baselines",
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


def false_tumours(
    rows: Iterable[Mapping[str, Any]], grid: str = "training"
) -> dict[str, tuple[int, int]]:
    """Returns model -> (cases without a tumour in which it marks one, cases without a tumour), in
    the table's order.
    """
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row["grid"] == grid and row["truth_ml_tumour"] == 0.0:
            marked, healthy = counts.get(row["model"], (0, 0))
            counts[row["model"]] = (marked + (row["volume_ml_tumour"] > 0.0), healthy + 1)
    return {name: counts[name] for name in sorted(counts, key=position)}


def several(tables: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns row -> column -> mean, lowest, highest (per cent) and runs, over several runs'
    `table1.json` contents.

    A run without a row or a number does not count there; a cell that no run has is absent.
    """
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for name in sorted({name for run in tables for name in run["rows"]}, key=position):
        for column in COLUMNS:
            values = [
                run["rows"][name][column]
                for run in tables
                if run["rows"].get(name, {}).get(column) is not None
            ]
            if values:
                mean = sum(values) / len(values)
                summary.setdefault(name, {})[column] = {
                    "mean": mean,
                    "lowest": min(values),
                    "highest": max(values),
                    "runs": len(values),
                }
    return summary


def _check_row(row: Any, where: str, any_site: bool = False, grids: Sequence[str] = GRIDS) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where}: {row!r} is no per-case row; have the site evaluate its models again"
        )
    missing = [key for key in ROW_KEYS if key not in row]
    if missing:
        raise ValueError(
            f"{where}: the row of case {row.get('case')!r} lacks {', '.join(missing)}; have the site evaluate its models again"
        )
    for key, known in (("grid", grids),) if any_site else (("site", SITES), ("grid", grids)):
        if row[key] not in known:
            raise ValueError(f"{where}: {key} is {row[key]!r}; Table 1 knows {', '.join(known)}")


def _model_row(rows: Sequence[Mapping[str, Any]]) -> TableRow:
    cells = {
        "C1_pancreas": ("C1", "dice_pancreas"),
        "C2_pancreas": ("C2", "dice_pancreas"),
        "C2_tumour": ("C2", "dice_tumour"),
    }
    percent: dict[str, float | None] = {}
    cases: dict[str, int] = {}
    for column, (site, key) in cells.items():
        values = [float(row[key]) for row in rows if row["site"] == site and row[key] is not None]
        percent[column] = 100.0 * sum(values) / len(values) if values else None
        cases[column] = len(values)
    pancreas = _pooled(percent, cases)
    percent["pancreas_average"] = pancreas
    percent["average"] = (
        None
        if None in (pancreas, percent["C2_tumour"])
        else (pancreas + percent["C2_tumour"]) / 2.0
    )
    cases["pancreas_average"] = (
        cases["C1_pancreas"] + cases["C2_pancreas"] if pancreas is not None else 0
    )
    cases["average"] = 0
    return TableRow(percent, cases)


def _pooled(percent: Mapping[str, float | None], cases: Mapping[str, int]) -> float | None:
    """Mean pancreas Dice over the cases of both sites; None unless both contribute, as one site's
    mean is no stand-in for both.
    """
    sites = ("C1_pancreas", "C2_pancreas")
    if not all(cases[site] for site in sites):
        return None
    return sum(cases[site] * percent[site] for site in sites) / sum(cases[site] for site in sites)


def _mean_row(rows: Sequence[TableRow]) -> TableRow:
    percent: dict[str, float | None] = {}
    for column in COLUMNS:
        values = [row.percent[column] for row in rows]
        percent[column] = None if None in values else sum(values) / len(values)
    return TableRow(percent, dict.fromkeys(COLUMNS, 0))


def position(name: str) -> tuple[int, str]:
    """Sort key that puts models in the order of the table, others after them by name, and those
    with the gate last, in the same order.
    """
    known, base = (*ROWS, *BEYOND), name.removesuffix(gated_rows.SUFFIX)
    place = known.index(base) if base in known else len(known)
    return (place + (base != name) * (len(known) + 1), name)
