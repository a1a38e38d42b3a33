"""Computes one setting in several ways: in how many variants does each finding of the paper hold?

The number of threads, the processor's instructions, the software stack and the arithmetic of the
normalisation change the order of additions and with it the last bits; training amplifies the
difference. A finding that depends on them is not reliable.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reports import cells
from experiments.results import table1_values
from runkit import markdown_tables


def collect(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the results of a study's finished runs, ready for JSON.

    Args:
      runs: from `study_results.collect`, with `label`, `seed`, `state` and `rows`.
    Returns:
      `runs`: for each finished run its `label`, its `seed`, whether each finding `holds`, and the
      `values` of the table in per cent. `findings`: for each finding its claim, the number of runs
      in which it holds, the number in which it was evaluated, and the runs in which it fails.
      `spread`: for each row and column the mean, and the standard deviation over the variants of
      one seed, from variances pooled over the seeds.
    """
    finished = [run for run in runs if run["state"] == "finished"]
    listed: list[dict[str, Any]] = []
    claims: dict[str, str] = {}
    for run in finished:
        lines = table1_values.table(run["rows"])
        found = table1_values.findings(lines)
        claims |= {name: finding.claim for name, finding in found.items()}
        listed.append(
            {
                "label": run["label"],
                "seed": run["seed"],
                "holds": {name: finding.holds for name, finding in found.items()},
                "values": {name: dict(row.percent) for name, row in lines.items()},
                "false_tumours": {
                    name: list(counts)
                    for name, counts in table1_values.false_tumours(run["rows"]).items()
                },
            }
        )
    findings = {
        name: {
            "claim": claim,
            "holds": sum(run["holds"][name] is True for run in listed),
            "of": sum(run["holds"][name] is not None for run in listed),
            "fails": [[run["label"], run["seed"]] for run in listed if run["holds"][name] is False],
        }
        for name, claim in claims.items()
    }
    return {"runs": listed, "findings": findings, "spread": _spread(listed)}


def markdown(content: Mapping[str, Any]) -> list[str]:
    """Returns the results of `collect` as lines of Markdown."""
    lines = ["## The findings in every variant", ""]
    if not content["runs"]:
        return [*lines, "No run has finished yet."]
    rows = []
    for finding in content["findings"].values():
        fails = ", ".join(f"{label} (seed {seed})" for label, seed in finding["fails"]) or "–"
        rows.append([finding["claim"], f"{finding['holds']} of {finding['of']}", fails])
    lines += markdown_tables.lines(["finding", "holds in#", "does not hold in"], rows)
    lines += ["", "## Differences from the arithmetic alone", ""]
    lines += [
        "Dice in per cent: mean over all runs and, in brackets, the standard deviation between "
        "variants of one seed.",
        "",
    ]
    lines += markdown_tables.lines(
        ["model", *(f"{name.replace('_', ' ')}#" for name in table1_values.COLUMNS)],
        [
            [name, *(_cell(columns.get(column)) for column in table1_values.COLUMNS)]
            for name, columns in content["spread"].items()
        ],
    )
    lines += ["", "## All runs", ""]
    shown = ("C1_FL_local", "C2_FL_local", "FL_global")
    heads = [f"{name} {column}#" for name in shown for column in ("C2 tumour", "Average")]
    rows = []
    for run in content["runs"]:
        numbers = [
            cells.number(run["values"].get(name, {}).get(column), 1)
            for name in shown
            for column in ("C2_tumour", "average")
        ]
        marked, healthy = run["false_tumours"].get("FL_global", (0, 0))
        rows.append([run["label"], str(run["seed"]), *numbers, f"{marked} of {healthy}"])
    head = ["variant", "seed#", *heads, "false tumours, FL_global#"]
    return [*lines, *markdown_tables.lines(head, rows)]


def _spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in sorted(
        {name for run in runs for name in run["values"]}, key=table1_values.position
    ):
        for column in table1_values.COLUMNS:
            by_seed: dict[int, list[float]] = {}
            for run in runs:
                value = run["values"].get(name, {}).get(column)
                if value is not None:
                    by_seed.setdefault(run["seed"], []).append(value)
            values = [value for own in by_seed.values() for value in own]
            several = [own for own in by_seed.values() if len(own) > 1]
            if values:
                # Pooled over the seeds; each has one degree of freedom less than it has variants.
                freedom = sum(len(own) - 1 for own in several)
                variance = (
                    sum((len(own) - 1) * statistics.variance(own) for own in several) / freedom
                    if freedom
                    else None
                )
                deviation = None if variance is None else variance**0.5
                found.setdefault(name, {})[column] = {
                    "mean": statistics.fmean(values),
                    "deviation": deviation,
                }
    return found


def _cell(cell: Mapping[str, float | None] | None) -> str:
    if cell is None:
        return cells.NOTHING
    return f"{cell['mean']:.1f}" + (
        "" if cell["deviation"] is None else f" ({cell['deviation']:.1f})"
    )
