"""The result of a check of scans, as JSON and as a page with a picture of each case.

Both contain case ids and paths, so they stay at the site.
"""

from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.reports import html_parts
from preprocessing import rules
from preprocessing.checks.survey import CheckFinding
from runkit import atomic


def document(
    site: str, findings: Sequence[CheckFinding], *, finished: bool = True
) -> dict[str, Any]:
    """Returns the findings as JSON values; `finished` says whether all cases were checked."""
    return {
        "site": site,
        "finished": finished,
        "cases": len(findings),
        "refused": sum(not finding.usable for finding in findings),
        "with_warnings": sum(finding.usable and bool(finding.warnings) for finding in findings),
        "rules": dict(
            sorted(
                Counter(
                    problem.rule for finding in findings for problem in finding.problems
                ).items()
            )
        ),
        "findings": [_case(finding) for finding in findings],
    }


def write(
    folder: str | os.PathLike, site: str, findings: Sequence[CheckFinding]
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes check.json and check.html into a folder and returns their paths."""
    content, folder = document(site, findings), pathlib.Path(folder)
    atomic.write_json(folder / "check.json", content)
    atomic.write_text(folder / "check.html", _page(content, findings))
    return folder / "check.json", folder / "check.html"


def summary(findings: Sequence[CheckFinding]) -> str:
    """Returns the text for a terminal: one line per case and broken rule, and the counts."""
    lines = [
        f"  {finding.case.case_id}: {rules.BY_ID[problem.rule].severity}: {problem}"
        for finding in findings
        for problem in finding.problems
    ]
    refused = sum(not finding.usable for finding in findings)
    warned = sum(finding.usable and bool(finding.warnings) for finding in findings)
    return "\n".join(
        [*lines, f"{len(findings)} cases checked: {refused} refused, {warned} with warnings"]
    )


def _case(finding: CheckFinding) -> dict[str, Any]:
    value: dict[str, Any] = {
        "case_id": finding.case.case_id,
        "usable": finding.usable,
        "problems": [
            {
                "rule": p.rule,
                "name": rules.BY_ID[p.rule].name,
                "severity": rules.BY_ID[p.rule].severity,
                "file": p.file,
                "problem": p.problem,
                "fix": p.fix,
            }
            for p in finding.problems
        ],
    }
    if finding.facts is not None:
        facts = finding.facts
        value["shape"], value["spacing_mm"], value["axes"] = (
            list(facts.shape),
            [round(s, 4) for s in facts.spacing_mm],
            facts.axes,
        )
        value["volume_ml"] = {
            str(class_): round(volume, 2) for class_, volume in facts.volume_ml.items()
        }
    return value


def _page(content: dict[str, Any], findings: Sequence[CheckFinding]) -> str:
    refused, warned = content["refused"], content["with_warnings"]
    usable = content["cases"] - refused
    tiles = html_parts.tiles(
        [
            (content["cases"], "cases", ""),
            (usable, "usable", "good" if usable else ""),
            (refused, "refused", "bad" if refused else ""),
            (warned, "with warnings", "warn" if warned else ""),
        ]
    )
    sections = [tiles]
    if content["rules"]:
        rows = [
            (
                rule,
                rules.BY_ID[rule].name,
                rules.BY_ID[rule].severity,
                count,
                rules.BY_ID[rule].demand,
                rules.BY_ID[rule].fix,
            )
            for rule, count in content["rules"].items()
        ]
        head = ("rule", "name", "severity", "cases#", "requirement", "remedy")
        sections.append("<h2>Broken rules</h2>" + html_parts.table(head, rows))
    # Cases that need attention come first.
    order = sorted(findings, key=lambda f: (f.usable, not f.warnings))
    sections.append(
        '<h2>Cases</h2>\n<div class="cards">'
        + "\n".join(_card(finding) for finding in order)
        + "</div>"
    )
    subtitle = (
        "Pancreas is outlined in blue and tumour in orange, in the slice that shows most of them. "
        "This page stays at the site."
    )
    return html_parts.page(f"Check of the scans of {content['site']}", subtitle, *sections)


def _card(finding: CheckFinding) -> str:
    shown = (
        html_parts.picture(finding.picture)
        if finding.picture is not None
        else '<div class="none">no picture</div>'
    )
    lines = []
    if finding.facts is not None:
        size = " x ".join(map(str, finding.facts.shape))
        spacing = " x ".join(f"{s:.3g}" for s in finding.facts.spacing_mm)
        volumes = ", ".join(
            f"{v:.0f} ml {('pancreas', 'tumour')[c - 1]}"
            for c, v in finding.facts.volume_ml.items()
        )
        lines.append(f'<div class="soft">{size}, {spacing} mm<br>{volumes}</div>')
    for problem in finding.problems:
        kind = "bad" if rules.BY_ID[problem.rule].severity == "error" else "warn"
        lines.append(
            f'<div class="{kind}">{problem.rule}: {html_parts.text(problem.problem)}</div>'
        )
    kind = "card" if finding.usable else "card refused"
    name = html_parts.text(finding.case.case_id)
    return f'<div class="{kind}">{shown}<b>{name}</b>{"".join(lines)}</div>'
