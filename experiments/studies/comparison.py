"""Compares the points of a sweep with one another: which of them keep another point's result?

The result of a run is the Average of FL_global, the mean of pancreas and tumour Dice over the test
cases of C1 and C2, in points. d is the result of a point minus that of the point named by its
`against`, in runs with the same seed, hence on the same patients. These rules were written before
any result was known:

  no basis    the point it is against reaches less than 20 points in a seed: a model that has not
              learned cannot lose anything
  kept        d is at least -margin in every seed
  lost        d is below -margin in every seed
  mixed       neither
  unfinished  a run of one of the two is missing

The outcomes describe the runs. The interval and the verdict next to them refer to other trainings,
by the rule `not less` of docs/verdicts.md, with Holm's correction over all comparisons.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.reports import html_parts
from experiments.results import table1_values
from experiments.results.measures import Run
from experiments.results.verdicts import claim_verdicts
from experiments.results.verdicts.claims import Hypothesis, Part
from experiments.studies import faults
from experiments.studies.study_file import Study
from runkit import markdown_tables

KEPT, LOST, MIXED, NO_BASIS, UNFINISHED = "kept", "lost", "mixed", "no basis", "unfinished"
LEAST_BASIS = 20.0  # points
_MODEL, _NO_FAULT = "FL_global", "none"


def outcome(pairs: Sequence[tuple[float | None, float | None]], margin: float) -> str:
    """Returns the outcome of a comparison.

    Args:
      pairs: for each seed, the point's result and that of the point it is against; None for a run
        without a result.
      margin: the margin in points.
    """
    known = [(own, base) for own, base in pairs if own is not None and base is not None]
    if len(known) < len(pairs) or not known:
        return UNFINISHED
    if any(base < LEAST_BASIS for _, base in known):
        return NO_BASIS
    within = [own - base >= -margin for own, base in known]
    return KEPT if all(within) else MIXED if any(within) else LOST


def collect(study: Study, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the comparisons of a study's runs, ready for JSON.

    Args:
      runs: from `study_results.collect`, with `label`, `seed`, `state`, `cohort` and `rows`.
    """
    if study.margin is None:
        raise ValueError(f"study {study.name} has no `margin`, so its points are not compared")
    finished = [run for run in runs if run["state"] == "finished"]
    results = {(run["label"], run["seed"]): average(run["rows"]) for run in finished}
    verdicts = _verdicts(study, study.margin, finished)
    points = []
    for point in study.points:
        own = [results.get((point.label, seed)) for seed in study.seeds]
        entry: dict[str, Any] = {
            "label": point.label,
            "rule": str(point.settings.get("aggregation", "fedavg")),
            "fault": dict(point.fault),
            "against": point.against,
            "by_seed": dict(zip(map(str, study.seeds), own, strict=True)),
        }
        if point.against is not None:
            base = [results.get((point.against, seed)) for seed in study.seeds]
            entry["outcome"] = outcome(list(zip(own, base, strict=True)), study.margin)
            entry["verdict"] = verdicts[point.label]
            entry["differences"] = {
                str(seed): None if a is None or b is None else a - b
                for seed, a, b in zip(study.seeds, own, base, strict=True)
            }
        points.append(entry)
    return {"margin": study.margin, "least_basis": LEAST_BASIS, "points": points}


def rules_text(content: Mapping[str, Any]) -> list[str]:
    """Returns the rules of the outcomes, one per line."""
    margin = content["margin"]
    return [
        "The result of a run is FL_global's Average: the mean of pancreas and tumour Dice over the "
        "test cases of C1 and C2, in points. The rules below were written before any number was "
        "looked at.",
        f"{KEPT}: in every seed at most {margin:g} points below the point it is compared with, on "
        "the same patients.",
        f"{LOST}: in every seed more than {margin:g} points below.",
        f"{MIXED}: neither.",
        f"{NO_BASIS}: the point it is compared with has less than {content['least_basis']:g} "
        "points in a seed; a model that has not learned cannot lose anything.",
        f"{UNFINISHED}: a run of one of the two has no result.",
        "These words describe the runs. The verdict is about other patients and other trainings: "
        "the rule 'not less' of docs/verdicts.md, after Holm's correction over all comparisons.",
    ]


def faults_text(content: Mapping[str, Any]) -> list[str]:
    """Returns which sites are faulty on purpose, and their faults, one per line; may be empty."""
    bad = [(site, fault) for point in content["points"] for site, fault in point["fault"].items()]
    if not bad:
        return []
    sites = ", ".join(dict.fromkeys(site for site, _ in bad))
    present = {fault for _, fault in bad}
    return [
        f"EXPERIMENT: in a point whose name has a fault, {sites} is bad on purpose. The other "
        "sites are sound, and the server's check of the size of a change is off.",
        *(
            f"{fault.replace('_', ' ')}: the bad site {words}."
            for fault, words in faults.FAULTS.items()
            if fault in present
        ),
    ]


def grid(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """Returns a table of which results are kept, rules by faults: its head and its lines.

    None if no point has a fault.
    """
    cells = {
        (point["rule"], _fault_of(point)): _cell(point)
        for point in content["points"]
        if len(point["fault"]) < 2
    }
    present = [fault for fault in (_NO_FAULT, *faults.FAULTS) if fault in {f for _, f in cells}]
    if present in ([], [_NO_FAULT]):
        return None
    rules = dict.fromkeys(rule for rule, _ in cells)
    return (
        ["aggregation rule", *(fault.replace("_", " ") for fault in present)],
        [[rule, *(cells.get((rule, fault), "–") for fault in present)] for rule in rules],
    )


def lines_of(content: Mapping[str, Any]) -> list[list[str]]:
    """Returns a table's lines: each comparison with its differences, outcome and verdict."""
    lines = []
    for point in content["points"]:
        if point["against"] is None:
            continue
        differences = [
            f"{seed}: {'–' if d is None else f'{d:+.1f}'}"
            for seed, d in point["differences"].items()
        ]
        interval = point["verdict"]["interval"]
        ends = (
            f"{interval['estimate']:+.1f} [{interval['low']:+.1f}, {interval['high']:+.1f}]"
            if interval and interval["low"] is not None
            else "–"
        )
        lines.append(
            [
                point["label"],
                point["against"],
                ", ".join(differences),
                point["outcome"],
                ends,
                point["verdict"]["verdict"],
            ]
        )
    return lines


HEAD = ["point", "against", "difference by seed", "outcome", "95 % interval", "verdict: not less"]


def markdown(content: Mapping[str, Any]) -> list[str]:
    """Returns the comparisons as lines of Markdown."""
    texts = [*faults_text(content), *rules_text(content)]
    lines = ["", "## What is kept", "", *(f"- {text}" for text in texts), ""]
    survives = grid(content)
    if survives is not None:
        lines += [*markdown_tables.lines(*survives), ""]
    return [*lines, *markdown_tables.lines(HEAD, lines_of(content))]


def section(content: Mapping[str, Any]) -> str:
    """Returns the comparisons as a section of the study's page, with a picture."""
    survives = grid(content)
    return (
        "<h2>What is kept</h2>"
        + "".join(_note(texts) for texts in (faults_text(content), rules_text(content)))
        + ("" if survives is None else html_parts.table(*survives))
        + f"<figure>{picture(content)}<figcaption>Average of FL_global in points: a dot for each "
        "seed, a bar at their mean. Green is kept, red is lost.</figcaption></figure>"
        + html_parts.table(HEAD, lines_of(content))
    )


def picture(content: Mapping[str, Any]) -> str:
    """Returns the results of all points as SVG: a dot for each seed, a bar at their mean."""
    left, right, line, top = 220, 16, 22, 8
    width, points = 760, content["points"]
    height = top + line * len(points) + 26

    def x(value: float) -> float:
        return left + value / 100 * (width - left - right)

    parts = []
    for tick in (0, 25, 50, 75, 100):
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{height - 22}" '
            'stroke="currentColor" stroke-opacity="0.2"/>'
            f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle" font-size="12" '
            f'fill="currentColor">{tick}</text>'
        )
    colours = {LOST: "var(--bad)", KEPT: "var(--good)"}
    for number, point in enumerate(points):
        y = top + line * (number + 0.5)
        known = [value for value in point["by_seed"].values() if value is not None]
        colour = colours.get(point.get("outcome", ""), "currentColor")
        parts.append(
            f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end" font-size="12" '
            f'fill="currentColor">{html_parts.text(point["label"])}</text>'
        )
        parts += [
            f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4" fill="{colour}" fill-opacity="0.6"/>'
            for value in known
        ]
        if known:
            mean = x(statistics.fmean(known))
            parts.append(
                f'<line x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}" '
                f'stroke="{colour}" stroke-width="2"/>'
            )
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        'aria-label="Average of FL_global in points, by point and seed">'
        f"{''.join(parts)}</svg>"
    )


def average(rows: Sequence[Any]) -> float | None:
    """Returns FL_global's Average in points; None without rows."""
    lines = table1_values.table(rows)
    return lines[_MODEL].percent["average"] if _MODEL in lines else None


def _verdicts(
    study: Study, margin: float, finished: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Returns the point's label -> the judged part, see `claim_verdicts`."""
    by_seed: dict[int, tuple[str, list[Any]]] = {}
    for run in finished:
        _, rows = by_seed.setdefault(run["seed"], (run["cohort"], []))
        rows += [{**row, "model": run["label"]} for row in run["rows"] if row["model"] == _MODEL]
    asked = [
        Hypothesis(
            point.label,
            f"{point.label} keeps the result of {point.against}",
            "ours",
            (Part("not_less", (point.label,), (point.against,), "average", margin),),
        )
        for point in study.points
        if point.against is not None
    ]
    runs = [Run(seed, cohort, rows) for seed, (cohort, rows) in by_seed.items()]
    return {
        verdict.hypothesis.key: verdict.outcomes[0].to_json()
        for verdict in claim_verdicts.evaluate(runs, asked)
    }


def _fault_of(point: Mapping[str, Any]) -> str:
    return next(iter(point["fault"].values()), _NO_FAULT)


def _cell(point: Mapping[str, Any]) -> str:
    known = [value for value in point["by_seed"].values() if value is not None]
    mean = f"{statistics.fmean(known):.1f}" if known else "–"
    return f"{mean}, {point['outcome']}" if point["against"] is not None else mean


def _note(texts: Sequence[str]) -> str:
    """Returns a paragraph of the first text and a list of the others."""
    if not texts:
        return ""
    items = "".join(f"<li>{html_parts.text(text)}</li>" for text in texts[1:])
    return f'<p class="note">{html_parts.text(texts[0])}</p><ul class="note">{items}</ul>'
