"""Reports of cohorts as pages and as text for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.reports import html_parts
from preprocessing import rules
from preprocessing.checks import cohort
from preprocessing.checks.patient_counts import FEWEST_PATIENTS
from preprocessing.checks.plan_proposal import Proposal
from runkit import printable
from runkit.classes import FOREGROUND

_BARS = " ▁▂▃▄▅▆▇█"


def text_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of one site, or of several sites side by side."""
    lines = [["", *(report["site"] for report in reports)], *cohort.rows(*reports)]
    # A report may come from another site.
    lines = [[printable.text(cell, limit=80) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def text_histograms(reports: Sequence[Mapping[str, Any]]) -> str:
    """Returns the distributions as bars, one line per site; empty if too few cases are labelled."""
    lines = []
    for title, unit, edges, series in _distributions(reports):
        lines.append(f"{title}, {edges[0]:g} to {edges[-1]:g} {unit}")
        for report, counts in zip(reports, series, strict=True):
            largest = max((c for c in counts if c), default=0) or 1
            # Even the smallest count is visible.
            bars = "".join(_BARS[0 if not c else max(1, round(8 * c / largest))] for c in counts)
            lines.append(f"  {printable.text(report['site'], limit=80)} |{bars}|")
    return "\n".join(lines)


def page(reports: Sequence[Mapping[str, Any]], proposals: Sequence[Proposal] = ()) -> str:
    """Returns the page of one site, or of several side by side with their differences.

    Args:
      proposals: settings that suit all sites, from `plan_proposal.propose`.
    """
    names = [report["site"] for report in reports]
    sections = []
    if len(reports) > 1:
        found = [
            line
            for pair in itertools.combinations(reports, 2)
            for line in cohort.differences(*pair)
        ]
        items = (
            "".join(f"<li>{html_parts.text(line)}</li>" for line in found)
            or "<li>none that stands out</li>"
        )
        sections.append(f"<h2>Differences</h2><ul>{items}</ul>")
        if proposals:
            lines = [[one.setting, one.text, one.reason] for one in proposals]
            sections.append(
                "<h2>Proposed for all sites</h2>"
                + html_parts.table(["setting", "value", "why"], lines)
            )
    else:
        counts = reports[0]["cases"]
        told = {row[0]: row[1] for row in cohort.rows(reports[0])}
        sections.append(
            html_parts.tiles(
                [
                    (counts["usable"], "usable", "good" if counts["usable"] else ""),
                    (told["cases refused"], "refused", "bad" if counts["refused"] else ""),
                    (told["cases with tumour"], "with tumour", ""),
                ]
            )
        )
    sections.append(
        "<h2>Numbers</h2>"
        + html_parts.table(["", *(f"{name}#" for name in names)], cohort.rows(*reports))
    )
    sections.append(
        f"<h2>Distributions</h2>{_key(names)}"
        + '<div class="plots">'
        + "".join(_plots(reports))
        + "</div>"
    )
    broken = sorted({rule for report in reports for rule in report["rules"]})
    if broken:
        counted = [
            [rule, rules.BY_ID[rule].name, *(report["rules"].get(rule, 0) for report in reports)]
            for rule in broken
            if rule in rules.BY_ID
        ]
        sections.append(
            "<h2>Broken rules</h2>"
            + html_parts.table(["rule", "name", *(f"{name}#" for name in names)], counted)
        )
    subtitle = (
        "All numbers are of groups of cases; none describes a single patient. Cases are counted in "
        f"whole groups of {FEWEST_PATIENTS} per bin (20 count as 18). Those left over are in "
        'no bin; "18 of 20" says how many of the cases the quantiles cover. Medians are known to '
        f"their bin. Bins with voxels of fewer than {FEWEST_PATIENTS} cases are left out. "
        "Values beyond the ends are in the first and the last bin."
    )
    return html_parts.page(
        f"Cohort{'s' * (len(names) > 1)} of {' and '.join(names)}", subtitle, *sections
    )


def _key(names: Sequence[str]) -> str:
    entries = (
        f'<span style="background:var(--{kind})"></span>{html_parts.text(name)}'
        for kind, name in zip(itertools.cycle(html_parts.SERIES), names, strict=False)
    )
    return f'<p class="key soft">{"".join(entries)}</p>'


def _plots(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    plots = [
        f"<div><b>{title}</b>{html_parts.histogram(edges, series, unit=unit)}</div>"
        for title, unit, edges, series in _distributions(reports)
    ]
    return plots or ['<p class="soft">There are too few labelled cases to show a distribution.</p>']


def _distributions(
    reports: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, str, list[float], list[list[float | None]]]]:
    """Yields title, unit, edges and each site's counts, where at least one report has them."""
    for name in FOREGROUND.values():
        for quantity, unit, title in (
            ("volume_ml", "ml", "volume, cases"),
            ("hu", "HU", "HU of its voxels"),
        ):
            if any(name in report[quantity] for report in reports):
                scales, series = zip(
                    *(cohort.histogram(report, quantity, name) for report in reports), strict=True
                )
                edges = [scales[0].low(number) for number in range(scales[0].bins + 1)]
                yield f"{name}: {title}", unit, edges, list(series)
