"""A study, a run or a site as one HTML page, which opens from disk without a network.

The page consists of a template, a style sheet and scripts from this package, and the data as JSON.
Its content security policy forbids loading anything else. It has a light and a dark theme and can
be printed.

A joint page contains only numbers, and pictures if the cohort is synthetic or public. A site's
page, which stays at the site, contains its pictures.
"""

from __future__ import annotations

import html
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.figures.learning_curves import Timeline
from experiments.figures.style import COLUMN_HEADINGS, MODEL_COLOURS
from experiments.figures.timeline import ACTIVITY_COLOURS, activities
from experiments.reports import case_browser, html_parts, patients_table, table1_report
from experiments.results import gated_rows, patients, table1_values
from experiments.results.case_rows import CaseRow
from experiments.results.measures import Run
from experiments.studies import comparison, leakage_results, privacy_results, study_results
from experiments.studies.study_file import SHOWN
from preprocessing.case_store import CaseStore
from runkit import progress

_PAGE = pathlib.Path(__file__).with_name("page")
_BEYOND_COLOURS = {
    table1_values.SHARED: "#56b4e9",
    table1_values.POOLED: "#cc79a7",
    table1_values.C1_TO_C2: "#b59a00",
    table1_values.C2_TO_C1: "#8a6bbf",
    table1_values.NO_VAE: "#7fbf9e",
}
_CURVE_PARTS = (
    ("dice", "validation Dice"),
    ("total", "loss"),
    ("kl", "KL (VAE)"),
    ("reconstruction", "L2 (VAE)"),
)
_MEASURES = (  # key, text, site, column, unit, factor
    ("C1_pancreas", "C1 pancreas, Dice", "C1", "dice_pancreas", "%", 100),
    ("C2_pancreas", "C2 pancreas, Dice", "C2", "dice_pancreas", "%", 100),
    ("C2_tumour", "C2 tumour, Dice", "C2", "dice_tumour", "%", 100),
    ("C1_false_tumour", "C1 false tumour", "C1", "volume_ml_tumour", "ml", 1),
    ("C1_hd95", "C1 pancreas, HD95", "C1", "hd95_mm_pancreas", "mm", 1),
    ("C2_hd95", "C2 tumour, HD95", "C2", "hd95_mm_tumour", "mm", 1),
    ("C2_nsd", "C2 tumour, surface Dice at 2 mm", "C2", "nsd_tumour", "%", 100),
    ("C2_components", "C2 tumour, components", "C2", "components_tumour", "components", 1),
    ("C2_roughness", "C2 tumour, surface/volume", "C2", "surface_volume_ratio_tumour", "1/mm", 1),
)


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
    data = _numbers(content, runs)
    pictures = content["pictures"] in SHOWN
    if pictures and content["runs"]:
        first = next(
            (run for run in content["runs"] if run["state"] == "finished"), content["runs"][0]
        )
        data["browser"] = browser_cases(folder / first["folder"])
        if content.get("comparison") is not None:
            data["browser"] = _one_case_of_each_point(content, folder)
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
    lead += f". Trained on {'; '.join(trained)}" if trained else ""
    return _page(
        f"Study {content['name']}",
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
        "browser": browser_cases(folder, (site,), all_cases=True),
        "colours": _colours(),
    }
    own = [row for row in rows if row["site"] == site and row["grid"] == "training"]
    table = _rows_table(own) if own else ""
    text = "Scans, labels and predictions. This page was made at the site and stays there."
    browser = (
        '<section id="s-browser"><h2>Cases</h2><div id="browser"></div></section>'
        if data["browser"]
        else "<p>There are no masks yet.</p>"
    )
    return _page(
        f"Site {site}",
        text,
        data,
        sections=[("browser", "Cases", browser), *([("rows", "Rows", table)] if table else [])],
    )


def browser_cases(
    run_folder: str | os.PathLike,
    sites: Sequence[str] = table1_values.SITES,
    *,
    all_cases: bool = False,
) -> list[dict[str, Any]]:
    """Returns the cases for the slice browser, from each site whose folder is available.

    Args:
      all_cases: all test cases with masks; by default the best, the median and the worst case of
          FL_global.
    """
    found = []
    for site in sites:
        home = pathlib.Path(run_folder) / "sites" / site
        if not (home / "cases" / "index.json").exists():
            continue
        store = CaseStore(home / "cases")
        folders = case_browser.mask_folders(home)
        test = [store.open(case_id) for case_id in store.case_ids("test")]
        chosen = case_browser.choose_cases(test, folders, "FL_global")
        if all_cases:
            words = {case.number: word for word, case in chosen}
            test = [case for case in test if case_browser.masks_of(folders, case.number)]
            chosen = [(words.get(case.number, ""), case) for case in test]
        for word, case in chosen:
            title = f"{site}, case {case.number}" + (f" ({word} for FL_global)" if word else "")
            found.append(
                case_browser.entry(case, case_browser.masks_of(folders, case.number), title)
            )
    return found


def _one_case_of_each_point(
    content: Mapping[str, Any], folder: pathlib.Path
) -> list[dict[str, Any]]:
    """Returns C2's median case for FL_global in each point's run of the first seed."""
    found = []
    for run in content["runs"]:
        if run["state"] == "finished" and run["seed"] == content["seeds"][0]:
            cases = browser_cases(folder / run["folder"], ("C2",))
            cases.sort(
                key=lambda case: "median" not in case["title"]
            )  # of one case, it is the best
            found += [{**case, "title": f"{run['label']}: {case['title']}"} for case in cases[:1]]
    return found


def framed(page: str) -> str:
    """Returns a page inside a frame, for a notebook's output."""
    return (
        f'<div><iframe srcdoc="{html.escape(page, quote=True)}" width="100%" height="900" '
        'style="border:0"></iframe></div>'
    )


def _numbers(
    content: Mapping[str, Any], runs: Sequence[tuple[str, pathlib.Path]]
) -> dict[str, Any]:
    traces = [(label, table1_report.read_events(folder)) for label, folder in runs]
    data: dict[str, Any] = {
        "kind": "study",
        "seeds": content["seeds"],
        "colours": _colours(),
        "activities": ACTIVITY_COLOURS,
        "columns": list(COLUMN_HEADINGS.items()),
        "paper_rows": [*table1_values.MODELS, table1_values.AVERAGE],
        "timelines": [timeline(label, trace.events) for label, trace in traces if trace.events],
        "curves": [_curves(label, trace.histories) for label, trace in traces if trace.histories],
        "curve_parts": _CURVE_PARTS,
        "browser": [],
    }
    if "table" in content:
        data["table"] = {"training": content["table"], "native": content["native"]}
        data["verdicts"] = [
            {
                **v,
                "parts": [
                    {**part, "numbers": study_results.part_numbers(part)} for part in v["parts"]
                ],
            }
            for v in content["verdicts"]
        ]
        data["cases"], data["measures"] = _case_columns(content["cases"])
        data["froc"] = [
            {"model": name, "points": _curve(own["froc"])}
            for name, own in _patients(content).items()
            if own["froc"]
        ]
    return data


def _patients(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the measures per patient; computed from the rows for studies of older releases."""
    if "patients" in content:
        return content["patients"]
    runs: dict[tuple[Any, Any], list[CaseRow]] = {}
    for row in content["cases"]:
        runs.setdefault((row.get("cohort", ""), row.get("seed")), []).append(row)
    return patients.of_runs([Run(seed, cohort, rows) for (cohort, seed), rows in runs.items()])


def _curve(points: Iterable[Mapping[str, float]]) -> list[list[float]]:
    return [
        [round(float(p[key]), 4) for key in ("threshold", "false_alarms", "found", "low", "high")]
        for p in points
    ]


def _case_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns rows as lists with four decimals, to keep the page of a large study small."""
    present = {column for row in rows for column, value in row.items() if value is not None}
    measures = [
        {"key": key, "text": text, "site": site, "column": column, "unit": unit, "factor": factor}
        for key, text, site, column, unit, factor in _MEASURES
        if column in present
    ]
    columns = list(dict.fromkeys(m[3] for m in _MEASURES if m[3] in present))
    models = sorted({row["model"] for row in rows}, key=table1_values.position)
    places = {model: index for index, model in enumerate(models)}
    compact = [
        [
            places[r["model"]],
            r["site"],
            r["case"],
            r["seed"],
            r["grid"],
            *(None if r.get(c) is None else round(float(r[c]), 4) for c in columns),
        ]
        for r in rows
    ]
    return {
        "models": models,
        "columns": ["model", "site", "case", "seed", "grid", *columns],
        "rows": compact,
    }, measures


def timeline(label: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns each site's activities in one run, in seconds since the server's first event."""
    found = [event for event in found if isinstance(event.get("time"), (int, float))]
    start = min((event["time"] for event in found), default=0.0)
    end = max((event["time"] for event in found), default=0.0)
    opened = {
        event["round"]: event["time"]
        for event in reversed(found)
        if event["event"] == "round_opened"
    }
    closed = {event["round"]: event["time"] for event in found if event["event"] == "aggregated"}
    moved = study_results.traffic(found)["sites"]
    sites = []
    for name in sorted({event["site"] for event in found if event.get("site")}):
        spans = [
            (what, round(a - start, 2), round(b - start, 2))
            for what, a, b in activities([e for e in found if e.get("site") == name])
        ]
        totals: dict[str, float] = {}
        for what, a, b in spans:
            totals[what] = round(totals.get(what, 0.0) + b - a, 2)
        own = moved.get(name, {})
        sites.append(
            {
                "name": name,
                "spans": spans,
                "totals": totals,
                "sent": own.get("sent_bytes", 0),
                "fetched": own.get("fetched_bytes", 0),
            }
        )
    return {
        "label": label,
        "end": round(end - start, 2),
        "rounds": [
            [n, round(t - start, 2), round(closed.get(n, end) - start, 2)]
            for n, t in sorted(opened.items())
        ],
        "aggregated": [round(t - start, 2) for _, t in sorted(closed.items())],
        "sites": sites,
    }


def _curves(label: str, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    lines = {model: Timeline(found) for model, found in histories.items()}
    series = []
    for model, line in lines.items():
        points = {}
        for part, _ in _CURVE_PARTS:
            x, y = line.series("validation" if part == "dice" else "epoch", part)
            points[part] = [
                [round(float(a), 3), round(float(b), 5)] for a, b in zip(x, y, strict=True)
            ]
        series.append({"model": model, "points": points})
    return {
        "label": label,
        "rounds": max((line.rounds for line in lines.values()), default=1) or 1,
        "series": series,
    }


def _study_sections(
    content: Mapping[str, Any], data: Mapping[str, Any], pictures: bool
) -> list[tuple[str, str, str]]:
    sections = []
    if "table" in content:
        sections += [
            (
                "table",
                "Table 1",
                _TABLE.format(definitions=_list(table1_report.DEFINITIONS.splitlines())),
            ),
            ("patients", "Patients", _patients_section(_patients(content))),
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
                f"<h2>{html_parts.text(content['axis'].capitalize())}</h2>{_sweep_table(content)}",
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


def _page(
    title: str,
    lead: str,
    data: Mapping[str, Any],
    *,
    sections: Sequence[tuple[str, str, str]],
    warning: str = "",
) -> str:
    style, script, browser = (
        (_PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "browser.js")
    )
    nav = "".join(f'<a href="#s-{key}">{html_parts.text(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="s-{key}">{content}</section>' for key, _, content in sections)
    browsed = data.get("browser", [])
    payload = _embedded({**data, "browser": [case["title"] for case in browsed]})
    # One element per case, so that its pictures are decoded only when the case is chosen.
    cases = "".join(
        f'<script type="application/json" id="case-{i}">{_embedded(case)}</script>'
        for i, case in enumerate(browsed)
    )
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    notice = f'<div class="warn">{html_parts.text(warning)}</div>' if warning else ""
    head = f'''<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
'''
    shown = f"""<div class="bar"><div><nav>{nav}</nav><span class="right">
<button id="theme" data-state="auto">Theme: auto</button>
<button id="print">Print</button></span></div></div>
<main><h1>{html_parts.text(title)}</h1><p class="lead">{html_parts.text(lead)}</p>{notice}
{body}<footer>Research software, not a medical device. This page contains everything it shows and
loads nothing from elsewhere.</footer></main>
<div id="tip"></div><script type="application/json" id="data">{payload}</script>{cases}
<script>{script}</script><script>{browser}</script>
"""
    return html_parts.document(title, shown, style=style, head=head)


def _embedded(value: Any) -> str:
    """Returns JSON for a script element, which a closing tag in a string would otherwise end."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")


def _cost_table(runs: Sequence[Mapping[str, Any]]) -> str:
    stages = list(dict.fromkeys(stage for run in runs for stage in run["wall_seconds"]))
    head = ["Run", *stages, "total", "peak memory", "transferred"]
    lines = []
    for run in runs:
        walls = [run["wall_seconds"].get(stage) for stage in stages]
        cells = [
            f"{run['label']}, seed {run['seed']}",
            *("–" if w is None else progress.elapsed(w) for w in walls),
        ]
        cells += [
            progress.elapsed(sum(w or 0 for w in walls)),
            f"{run['peak_memory_bytes'] / 2**30:.1f} GiB",
            f"{run['traffic']['bytes'] / 2**20:.0f} MiB",
        ]
        lines.append(cells)
    return html_parts.table(head, lines)


def _departures(content: Mapping[str, Any]) -> str:
    found = study_results.departures(content)
    notes = list(dict.fromkeys(note for run in content["runs"] for note in run["notes"]))
    return (
        _list(notes)
        + (html_parts.table(["setting", "here", "paper"], found) if found else "<p>None.</p>")
        + _list(table1_report.PAPER_STATEMENT.splitlines())
    )


def _sweep_table(content: Mapping[str, Any]) -> str:
    head = [content["axis"], *COLUMN_HEADINGS.values(), "wall time per run", "transferred"]
    lines = []
    for point in content["sweep"]:
        row = point["table"].get("FL_global", {})
        texts = [study_results.cell_text(row.get(column)) for column in COLUMN_HEADINGS]
        wall = "–" if point["wall_seconds"] is None else progress.elapsed(point["wall_seconds"])
        moved = "–" if point["bytes"] is None else f"{point['bytes'] / 2**20:.0f} MiB"
        lines.append([point["label"], *texts, wall, moved])
    return f'<p class="note">{study_results.SWEEP_TEXT}</p>' + html_parts.table(head, lines)


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
            *("–" if r.get(k) is None else f"{r[k]:.2f}" for k in keys),
        ]
        for r in ordered
    ]
    head = ["case", *(key.replace("_", " ") for key in keys)]
    return "<h2>Rows</h2>" + html_parts.table(head, lines)


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{html_parts.text(line.removeprefix('- '))}</li>" for line in lines)
    return f'<ul class="note">{items}</ul>' if items else ""


def _colours() -> dict[str, str]:
    own = {**MODEL_COLOURS, **_BEYOND_COLOURS}
    return {**own, **{name + gated_rows.SUFFIX: colour for name, colour in own.items()}}
