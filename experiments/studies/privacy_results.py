"""Dice against epsilon: the cost of the sites' privacy policies, if the sites report epsilon.

With each update a site reports its epsilon of the run so far, if its policy allows it
(--privacy_tell_epsilon). The result of a run is FL_global's Average, in points, as in `comparison`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.reports import html_parts
from experiments.studies import comparison
from experiments.studies.study_file import Study
from federated.privacy.policy import EPSILON, PrivacyPolicy
from federated.privacy.releases import number
from runkit import markdown_tables

_NO_FILTER, _NO_GUARANTEE = "no filter", "none"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LINE = 14.0  # between the labels of a picture


def told(server_events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns site -> a summary of its updates in the server's log.

    The keys of a site are `updates`, `bytes` (of whole updates), `received_bytes`, and `epsilon`,
    the largest one that it reported, if any.
    """
    sites: dict[str, dict[str, float]] = {}
    for event in server_events:
        if event.get("event") != "pushed":
            continue
        own = sites.setdefault(event["site"], {"updates": 0, "bytes": 0, "received_bytes": 0})
        own["updates"] += 1
        own["bytes"] += int(event.get("bytes") or 0)
        own["received_bytes"] += int(event.get("received") or 0)
        epsilon = (event.get("metrics") or {}).get(EPSILON)
        if isinstance(epsilon, int | float):
            own["epsilon"] = max(own.get("epsilon", 0.0), float(epsilon))
    return sites


def collect(study: Study, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the points of a study with their policies, ready for JSON; None without any policy.

    Args:
      runs: from `study_results.collect`, with `label`, `seed`, `state`, `rows` and `updates`.
    """
    if not any(point.privacy for point in study.points):
        return None
    points = []
    for point in study.points:
        own = [run for run in runs if run["label"] == point.label and run["state"] == "finished"]
        policies = dict.fromkeys(map(words, point.privacy.values()))
        points.append(
            {
                "label": point.label,
                "policy": "; ".join(policies) or _NO_FILTER,
                **_of_runs(own),
                "by_seed": {str(run["seed"]): comparison.average(run["rows"]) for run in own},
            }
        )
    return {"points": points}


def of_one_run(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the same for one run; None if no site reported an epsilon."""
    found = _of_runs([run])
    if found["epsilon"] is None:
        return None
    of_seed = {str(run["seed"]): comparison.average(run["rows"])}
    return {
        "points": [
            {"label": run["label"], "policy": "reported by the sites", **found, "by_seed": of_seed}
        ]
    }


def words(policy: PrivacyPolicy) -> str:
    """Returns a policy's filter with the settings that decide the result, e.g. "percentile 75"."""
    given = {
        "none": "",
        "clip": f" to {policy.clip_norm:g}" if policy.clip_norm else "",
        "gaussian": f" {policy.noise:g} x {policy.clip_norm:g}, delta {policy.delta:g}"
        if policy.noise and policy.clip_norm
        else "",
        "percentile": f" {policy.percentile:g}" if policy.percentile else "",
        "svt": f" {100 * policy.fraction:g} %, delta 0",
    }
    return f"{policy.filter}{given[policy.filter]}"


HEAD = ["point", "policy", "epsilon of the run", "sent of an update", "Average of FL_global"]
TEXT = (
    "Epsilon bounds how much all updates of a site in a run reveal about one of its patients; "
    "the table shows the largest value that a site reported, over the seeds. Patients of a site "
    "that reported none may have no guarantee. Epsilon does not cover scores and rows of the "
    "evaluation. Above about 10 it gives no meaningful guarantee."
)


def lines_of(content: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table's lines, one per point."""
    lines = []
    for point in content["points"]:
        known = [value for value in point["by_seed"].values() if value is not None]
        share = point["sent_share"]
        lines.append(
            [
                point["label"],
                point["policy"],
                _epsilon(point),
                "–" if share is None else f"{100 * share:.0f} %",
                f"{statistics.fmean(known):.1f}" if known else "–",
            ]
        )
    return lines


def _epsilon(point: Mapping[str, Any]) -> str:
    if point["epsilon"] is None:
        return _NO_GUARANTEE
    told, sites = point.get("sites_told"), point.get("sites")  # not in results of earlier releases
    of = "" if told == sites else f" (reported by {told} of {sites} sites)"
    return f"{number(point['epsilon'])}{of}"


def markdown(content: Mapping[str, Any]) -> list[str]:
    """Returns the table as lines of Markdown."""
    table = markdown_tables.lines(HEAD, lines_of(content))
    return ["", "## Dice against epsilon", "", TEXT, "", *table]


def section(content: Mapping[str, Any]) -> str:
    """Returns the table and the picture as a section of the page."""
    return (
        f'<h2>Dice against epsilon</h2><p class="note">{html_parts.text(TEXT)}</p>'
        f"<figure>{picture(content)}<figcaption>Average of FL_global in points against the epsilon "
        "of the run, on a logarithmic scale; a dot for each seed. On the right are the points "
        "without a guarantee.</figcaption></figure>" + html_parts.table(HEAD, lines_of(content))
    )


def picture(content: Mapping[str, Any]) -> str:
    """Returns Dice against epsilon as SVG: a dot for each seed, a label beside their mean."""
    left, right, top, width, height = 50, 250, 16, 860, 320
    bottom = height - 34
    finite = [p["epsilon"] for p in content["points"] if p["epsilon"]]
    low = math.floor(math.log10(min(finite))) if finite else 0
    high = max(low + 1, math.ceil(math.log10(max(finite)))) if finite else 1
    none_at = width - right + 130  # leaves room for the label of the largest epsilon

    def x(epsilon: float | None) -> float:
        if not epsilon:
            return none_at
        return left + (math.log10(epsilon) - low) / (high - low) * (width - right - left)

    def y(value: float) -> float:
        return bottom - value / 100 * (bottom - top)

    def text(at: float, on: float, what: str, anchor: str = "middle") -> str:
        return (
            f'<text x="{at:.1f}" y="{on:.1f}" text-anchor="{anchor}" font-size="12" '
            f'fill="currentColor">{html_parts.text(what)}</text>'
        )

    parts = [
        f'<line x1="{left}" x2="{width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
        'stroke="currentColor" stroke-opacity="0.2"/>'
        f"{text(left - 8, y(tick) + 4, str(tick), 'end')}"
        for tick in (0, 25, 50, 75, 100)
    ]
    step = max(1, (high - low) // 6)
    ticks = range(low, high + 1, step) if finite else ()
    parts += [text(x(10.0**power), height - 14, _power_of_ten(power)) for power in ticks]
    parts.append(text(none_at, height - 14, _NO_GUARANTEE))
    labels: dict[float, list[tuple[float, str]]] = {}
    for point in content["points"]:
        known = [value for value in point["by_seed"].values() if value is not None]
        at = x(point["epsilon"])
        parts += [
            f'<circle cx="{at:.1f}" cy="{y(value):.1f}" r="4" fill="currentColor" '
            'fill-opacity="0.6"/>'
            for value in known
        ]
        if known:
            labels.setdefault(at, []).append((y(statistics.fmean(known)), point["label"]))
    for at, own in labels.items():
        places = _apart([place for place, _ in sorted(own)], top, bottom)
        for (_, label), place in zip(sorted(own), places, strict=True):
            parts.append(text(at + 8, place + 4, label, "start"))
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        'aria-label="Average of FL_global in points against epsilon">'
        f"{''.join(parts)}</svg>"
    )


def _power_of_ten(power: int) -> str:
    return f"10{str(power).translate(_SUPERSCRIPTS)}"


def _apart(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """Moves ordered places of labels apart, so that none covers another, within [top, bottom]."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + _LINE) if moved else max(place, top))
    limit = bottom
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - _LINE
    return moved


def _of_runs(runs: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    runs = list(runs)
    sites = [site for run in runs for site in run["updates"].values()]
    epsilons = [site["epsilon"] for site in sites if "epsilon" in site]
    whole = sum(site["bytes"] for site in sites)
    names = {name for run in runs for name in run["updates"]}
    silent = {n for run in runs for n, site in run["updates"].items() if "epsilon" not in site}
    return {
        "sites": len(names),
        "sites_told": len(names - silent),
        "epsilon": max(epsilons) if epsilons else None,
        "sent_share": sum(site["received_bytes"] for site in sites) / whole if whole else None,
    }
