"""Computes one setting in several ways: in how many variants does each finding of the paper hold?

The number of threads, the processor's instructions, the software stack and the arithmetic of the
normalisation change the order of additions and with it the last bits; training amplifies the
difference. A finding that depends on them is not reliable.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.figures import style
from experiments.reports import cells, html_parts
from experiments.results import gated_rows, table1_values
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
    if not content["runs"]:
        return ["## The findings in every variant", "", "No run has finished yet."]
    lines: list[str] = []
    for heading, texts, head, rows in _parts(content):
        if lines:
            lines.append("")
        lines += [f"## {heading}", ""]
        for text in texts:
            lines += [text, ""]
        lines += markdown_tables.lines(head, rows)
    return lines


def section(content: Mapping[str, Any]) -> str:
    """Returns the results of `collect` as a section of the study's page, with a picture."""
    if not content["runs"]:
        return "<h2>The findings in every variant</h2><p>No run has finished yet.</p>"
    parts = []
    for heading, texts, head, rows in _parts(content):
        parts.append(f"<h2>{html_parts.text(heading)}</h2>")
        parts += [f'<p class="note">{html_parts.text(text)}</p>' for text in texts]
        parts.append(html_parts.table(head, rows))
        if heading == _FINDINGS:
            parts.append(
                f"<figure>{picture(content)}<figcaption>Average of each federated model minus the "
                "mean of the baselines' Averages, in points; a dot for each seed. Right of the "
                "line, the third and fourth finding hold.</figcaption></figure>"
            )
    return "".join(parts)


def picture(content: Mapping[str, Any]) -> str:
    """Returns by how much each variant's federated models beat the baselines, as SVG."""
    labels = list(dict.fromkeys(run["label"] for run in content["runs"]))
    dots = []  # variant, model, seed, points above the baselines
    for run in content["runs"]:
        averages = {
            name: values["average"]
            for name, values in run["values"].items()
            if values.get("average") is not None
        }
        if not averages.keys() >= set(_BASELINES):
            continue
        of_baselines = statistics.fmean(averages[name] for name in _BASELINES)
        for model in _FEDERATED:
            if model in averages:
                dots.append((run["label"], model, run["seed"], averages[model] - of_baselines))
    gains = [gain for *_, gain in dots]
    low, high = min([0.0, *gains]) - 2, max([10.0, *gains]) + 2
    left, right, lane, top, width = 150, 16, 26, 26, 760
    height = top + lane * len(labels) + 26

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    def words(at: float, on: float, what: str, anchor: str) -> str:
        return (
            f'<text x="{at:.1f}" y="{on:.1f}" text-anchor="{anchor}" font-size="12" '
            f'fill="currentColor">{html_parts.text(what)}</text>'
        )

    parts = []
    for tick in range(10 * math.ceil(low / 10), math.floor(high) + 1, 10):
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{height - 22}" '
            f'stroke="currentColor" stroke-opacity="{0.2 if tick else 0.8}"/>'
            + words(x(tick), height - 6, f"{tick:+d}" if tick else "0", "middle")
        )
    for place, model in enumerate(_FEDERATED):
        at = left + 150 * place
        parts.append(
            f'<circle cx="{at}" cy="10" r="4" fill="{style.MODEL_COLOURS[model]}"/>'
            + words(at + 10, 14, model, "start")
        )
    for place, label in enumerate(labels):
        parts.append(words(left - 10, top + lane * (place + 0.5) + 4, label, "end"))
    for label, model, seed, gain in dots:
        y = top + lane * (labels.index(label) + 0.5) + 6 * (_FEDERATED.index(model) - 1)
        parts.append(
            f'<circle cx="{x(gain):.1f}" cy="{y:.1f}" r="4" fill-opacity="0.8" '
            f'fill="{style.MODEL_COLOURS[model]}"><title>'
            f"{html_parts.text(label)}, seed {seed}, {model}: {gain:+.1f} points</title></circle>"
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        'aria-label="Averages above the baselines in points, by variant and seed">'
        f"{''.join(parts)}</svg>"
    )


_FINDINGS = "The findings in every variant"
_BASELINES = ("C1_baseline", "C2_baseline")
_FEDERATED = ("C1_FL_local", "C2_FL_local", "FL_global")
_Part = tuple[str, list[str], list[str], list[list[str]]]  # heading, texts, table's head and rows


def _parts(content: Mapping[str, Any]) -> list[_Part]:
    """Returns what Markdown and page show of finished runs, in order."""
    found = []
    for finding in content["findings"].values():
        fails = ", ".join(f"{label} (seed {seed})" for label, seed in finding["fails"]) or "–"
        found.append([finding["claim"], f"{finding['holds']} of {finding['of']}", fails])
    spread = [
        [name, *(_cell(columns.get(column)) for column in table1_values.COLUMNS)]
        for name, columns in content["spread"].items()
    ]
    gated = "FL_global" + gated_rows.SUFFIX
    columns = [("C2_baseline", "average")]
    columns += [(name, column) for name in _FEDERATED for column in ("C2_tumour", "average")]
    columns += [(gated, "C2_tumour")]
    runs = []
    for run in content["runs"]:
        numbers = [
            cells.number(run["values"].get(name, {}).get(column), 1) for name, column in columns
        ]
        counts = [run["false_tumours"].get(name) for name in ("FL_global", gated)]
        alarms = [
            cells.NOTHING if count is None else f"{count[0]} of {count[1]}" for count in counts
        ]
        runs.append([run["label"], str(run["seed"]), *numbers, *alarms])
    headings = [f"{name} {style.COLUMN_HEADINGS[column]}" for name, column in columns]
    headings += ["false tumours, FL_global", f"false tumours, {gated}"]
    return [
        (_FINDINGS, _summary(content["runs"]), ["finding", "holds in#", "does not hold in"], found),
        (
            "Differences from the arithmetic alone",
            [
                "Dice in per cent: mean over all runs and, in brackets, the standard deviation "
                "between variants of one seed."
            ],
            ["model", *(f"{heading}#" for heading in style.COLUMN_HEADINGS.values())],
            spread,
        ),
        ("All runs", [], ["variant", "seed#", *(f"{name}#" for name in headings)], runs),
    ]


def _summary(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what holds over all runs together, as sentences."""
    judged = [run for run in runs if None not in run["holds"].values()]
    hold = sum(all(run["holds"].values()) for run in judged)
    texts = [f"All findings hold together in {hold} of {len(judged)} runs."] if judged else []

    def pairs(one: str, other: str, column: str) -> list[tuple[float, float]]:
        known = [
            (run["values"].get(one, {}).get(column), run["values"].get(other, {}).get(column))
            for run in runs
        ]
        return [(a, b) for a, b in known if a is not None and b is not None]

    kept = pairs("C1_FL_local", "FL_global", "C2_tumour")
    if kept and sum(b for _, b in kept):
        share = sum(a for a, _ in kept) / sum(b for _, b in kept)
        texts.append(
            f"C1_FL_local keeps {100 * share:.0f} % of FL_global's tumour Dice, on the mean over "
            f"{len(kept)} runs."
        )
    above = pairs("FL_global", "C2_baseline", "average")
    if above:
        points = statistics.fmean(a - b for a, b in above)
        texts.append(
            f"FL_global's Average is {points:.1f} points above C2_baseline's, on the mean over "
            f"{len(above)} runs."
        )
    gated = "FL_global" + gated_rows.SUFFIX
    lost = pairs("FL_global", gated, "C2_tumour")
    if lost:
        marked, healthy = (
            sum(run["false_tumours"].get(gated, (0, 0))[place] for run in runs) for place in (0, 1)
        )
        texts.append(
            f"With the healthy gate, FL_global marks a tumour in {marked} of {healthy} healthy "
            f"patients and loses {statistics.fmean(a - b for a, b in lost):.1f} points of tumour "
            f"Dice, on the mean over {len(lost)} runs."
        )
    return texts


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
