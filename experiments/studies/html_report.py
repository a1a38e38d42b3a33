"""The HTML page of a study, a run or a site.

A joint page contains only numbers, and pictures if the cohort is synthetic or public. A site's
page, which stays at the site, contains its pictures.
"""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.figures.timeline import ACTIVITY_COLOURS
from experiments.reports import cells, html_parts, patients_table, table1_report
from experiments.results import table1_values
from experiments.studies import (
    comparison,
    interactive_page,
    leakage_results,
    page_data,
    privacy_results,
    study_results,
    variants,
)
from experiments.studies.study_file import title
from experiments.studies.study_keys import SHOWN
from runkit import progress


def study_page(content: Mapping[str, Any], folder: str | os.PathLike) -> str:
    """Returns a study's joint page.

    Args:
      content: from `study_results.collect`.
      folder: the folder of the study's runs, with the servers' logs, the histories and, if the
          cohort allows them, the pictures.
    """
    folder = pathlib.Path(folder)
    runs = [
        (f"{run['label']}, seed {run['seed']}", folder / run["folder"]) for run in content["runs"]
    ]
    data = page_data.numbers(content, runs)
    pictures = content["pictures"] in SHOWN
    if pictures and content["runs"]:
        first = next(
            (run for run in content["runs"] if run["state"] == "finished"), content["runs"][0]
        )
        data["browser"] = page_data.browser_cases(folder / first["folder"])
        if content.get("comparison") is not None:
            data["browser"] = page_data.one_case_of_each_point(content, folder)
    finished = sum(run["state"] == "finished" for run in content["runs"])
    missing = [
        f"{run['label']}, seed {run['seed']}: {run['state']}"
        + (f" ({run['failure'].splitlines()[0]})" if run["failure"] else "")
        for run in content["runs"]
        if run["state"] != "finished"
    ]
    seeds = ", ".join(map(str, content["seeds"]))
    stacks = "; ".join(sorted({run["stack"] for run in content["runs"] if run.get("stack")}))
    lead = f"Profile {content['profile']}, seed{'s' * (len(content['seeds']) > 1)} {seeds}. "
    lead += f"Finished runs: {finished} of {len(content['runs'])}. {stacks}"
    trained = sorted({text for run in content["runs"] for text in run.get("devices", {}).values()})
    lead += f". Trained on: {'; '.join(trained)}" if trained else ""
    return interactive_page.document(
        title(content["name"]),
        lead,
        data,
        warning="This is a partial result.\n" + "\n".join(missing) if missing else "",
        sections=_study_sections(content, data, pictures),
    )


def site_page(
    run_folder: str | os.PathLike, site: str, rows: Iterable[Mapping[str, Any]] = ()
) -> str:
    """Returns a site's page, with slices and overlays of its cases. It stays at the site.

    Args:
      run_folder: the folder with `sites/<site>`.
      rows: per-case rows; those of this site are shown as a table below.
    """
    folder = pathlib.Path(run_folder)
    data = {
        "kind": "site",
        "browser": page_data.browser_cases(folder, (site,), all_cases=True),
        "colours": page_data.colours(),
    }
    own = [row for row in rows if row["site"] == site and row["grid"] == "training"]
    table = _rows_table(own) if own else ""
    text = "Scans, labels and predictions. This page was made at the site and stays there."
    browser = (
        '<section id="s-browser"><h2>Cases</h2><div id="browser"></div></section>'
        if data["browser"]
        else "<p>There are no masks yet.</p>"
    )
    return interactive_page.document(
        f"Site {site}",
        text,
        data,
        sections=[("browser", "Cases", browser), *([("rows", "Rows", table)] if table else [])],
    )


def framed(page: str) -> str:
    """Returns a page inside a frame, for a notebook's output."""
    return (
        f'<div><iframe srcdoc="{html.escape(page, quote=True)}" width="100%" height="900" '
        'style="border:0"></iframe></div>'
    )


def _study_sections(
    content: Mapping[str, Any], data: Mapping[str, Any], pictures: bool
) -> list[tuple[str, str, str]]:
    sections = []
    if content.get("variants") is not None:
        sections.append(("findings", "Findings", variants.section(content["variants"])))
    if "table" in content:
        sections += [
            (
                "table",
                "Table 1",
                _TABLE.format(definitions=_list(table1_report.DEFINITIONS.splitlines())),
            ),
            ("patients", "Patients", _patients_section(page_data.patient_measures(content))),
            (
                "claims",
                "Claims",
                _CLAIMS.format(not_examined=_not_examined(content.get("not_asked", ()))),
            ),
        ]
        if data["measures"]:
            sections.append(("cases", "Cases", _CASES))
    if content.get("sweep") is not None:
        sections.append(
            (
                "sweep",
                "Sweep",
                f"<h2>{html_parts.text(content['axis'].capitalize())}</h2>"
                f'<p class="note">{study_results.SWEEP_TEXT}</p>'
                + html_parts.table(*study_results.sweep_table(content)),
            )
        )
    if content.get("comparison") is not None:
        sections.append(("kept", "What is kept", comparison.section(content["comparison"])))
    if content.get("privacy") is not None:
        sections.append(("privacy", "Privacy", privacy_results.section(content["privacy"])))
    if content.get("leakage") is not None:
        sections.append(
            ("leakage", "What the models give away", leakage_results.section(content["leakage"]))
        )
    if data["browser"]:
        note = f"Pictures are shown because the cohort is {content['pictures']}."
        browser = f'<h2>Pictures</h2><p class="note">{note}</p><div id="browser"></div>'
        sections.append(("pictures", "Pictures", browser))
    elif not pictures:
        note = "The scans stay at the sites. Each site has its own page with pictures."
        sections.append(("pictures", "Pictures", f'<h2>Pictures</h2><p class="note">{note}</p>'))
    if data["timelines"]:
        sections.append(("federation", "Federation", _FEDERATION))
    if data["curves"]:
        sections.append(("training", "Training", _TRAINING))
    sections.append(("cost", "Cost", f"<h2>Cost</h2>{_cost_table(content['runs'])}"))
    sections.append(
        ("departures", "Departures", f"<h2>Departures from the paper</h2>{_departures(content)}")
    )
    return sections


def _not_examined(things: Sequence[str]) -> str:
    return (
        f'<p class="note">Not examined: {html_parts.text("; ".join(things))}.</p>' if things else ""
    )


def _patients_section(measures: Mapping[str, Any]) -> str:
    text = html_parts.text(patients_table.TEXT.replace("`", ""))
    table = html_parts.table(*patients_table.table(measures))
    return (
        f'<h2>Patients</h2><p class="note">{text}</p>{table}'
        '<p class="note">Tumours found against false alarms per patient as the score threshold '
        "falls to 0. The dot, with its exact 95 % interval, stands for the unchanged mask, the "
        "square for the mask with the gate. All seeds share one threshold.</p>"
        '<figure id="froc"></figure>'
    )


_TABLE = """<h2>Table 1</h2><p class="note">Dice in per cent on the sites' test cases: mean over
seeds ± half the width of the 95 % interval (Student's t over seeds), then the paper's value and
the difference from it.</p><div class="controls" id="table-controls"></div><div class="scroll"
id="table"></div><details><summary class="note">How the numbers are computed</summary>{definitions}
</details>"""
_CLAIMS = """<h2>The paper's claims, and ours</h2><p class="note">Rules and margins were fixed
before any result was seen (docs/verdicts.md). The bar shows the 95 % interval over patients and
trainings, the large dot its mean, the small dots the seeds, and the diamond the paper's value. The
dashed line marks no difference, the solid line the margin. "Coverage" is how often such an interval
contained the true value in simulated studies; "detects" is the smallest difference that a study
like this one finds with 80 % power. p belongs to the statistic of the interval, Holm-corrected over
all parts. With fewer than three trainings, no verdict is given.</p>{not_examined}
<div class="controls" id="verdict-controls"></div><div id="verdicts"></div>"""
_CASES = """<h2>Case by case</h2><p class="note">Each dot is a test case. The box spans the
quartiles, its line is the median, and the number on the right is the mean.</p><div class="controls"
id="case-controls"></div><figure id="cases"></figure><h3>One model against another</h3>
<div class="controls" id="pair-controls"></div><figure id="pairs"></figure>"""
_FEDERATION = """<h2>The federation</h2><p class="note">What each site did and when, by the server's
clock. Bands are rounds, diamonds are aggregations.</p><div class="controls" id="timeline-controls">
</div><div class="legend">{}</div><figure id="timeline"></figure>""".format(
    "".join(
        '<span><span class="chip" style="background:'
        f'{"var(--waits)" if name == "waits" else colour}"></span>{name}</span>'
        for name, colour in ACTIVITY_COLOURS.items()
    )
)
_TRAINING = """<h2>Training</h2><p class="note">Validation Dice is computed on whole volumes, on
each site's own validation cases. Bands are rounds.</p><div class="controls" id="curve-controls">
</div><figure id="curves"></figure>"""


def _cost_table(runs: Sequence[Mapping[str, Any]]) -> str:
    stages = list(dict.fromkeys(stage for run in runs for stage in run["wall_seconds"]))
    head = ["Run", *stages, "total", "peak memory", "transferred"]
    lines = []
    for run in runs:
        walls = [run["wall_seconds"].get(stage) for stage in stages]
        texts = [
            f"{run['label']}, seed {run['seed']}",
            *("–" if w is None else progress.elapsed(w) for w in walls),
        ]
        texts += [
            progress.elapsed(sum(w or 0 for w in walls)),
            f"{run['peak_memory_bytes'] / 2**30:.1f} GiB",
            f"{run['traffic']['bytes'] / 2**20:.0f} MiB",
        ]
        lines.append(texts)
    return html_parts.table(head, lines)


def _departures(content: Mapping[str, Any]) -> str:
    found = study_results.departures(content)
    notes = list(dict.fromkeys(note for run in content["runs"] for note in run["notes"]))
    return (
        _list(notes)
        + (html_parts.table(["setting", "here", "paper"], found) if found else "<p>None.</p>")
        + _list(table1_report.PAPER_STATEMENT.splitlines())
    )


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda row: (row["case"], table1_values.position(row["model"])))
    keys = (
        "dice_pancreas",
        "dice_tumour",
        "volume_ml_pancreas",
        "volume_ml_tumour",
        "truth_ml_pancreas",
        "truth_ml_tumour",
    )
    lines = [
        [
            f"case {r['case']}, {r['model']}",
            *(cells.number(r.get(k), 2) for k in keys),
        ]
        for r in ordered
    ]
    head = ["case", *(key.replace("_", " ") for key in keys)]
    return "<h2>Rows</h2>" + html_parts.table(head, lines)


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{html_parts.text(line.removeprefix('- '))}</li>" for line in lines)
    return f'<ul class="note">{items}</ul>' if items else ""
