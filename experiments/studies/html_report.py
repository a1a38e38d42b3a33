"""A study, a run or a site as one HTML page: opens from disk, asks no network for anything, light
and dark, prints.

The page is a template, a style sheet and scripts of this package with the data as JSON beside them;
its own security policy forbids it to load anything. A joint page holds numbers only, and pictures
where the cohort is synthetic or public; a site's page, which stays at the site, holds its pictures.
"""

from __future__ import annotations

import html
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.figures.style import MODEL_COLOURS
from experiments.figures.timeline import ACTIVITY_COLOURS, activities
from experiments.figures.training import Timeline
from experiments.reports import case_browser, patients_table, table1_report
from experiments.results import gated_rows, paper_table, patients
from experiments.studies import study_results
from preprocessing.case_store import CaseStore
from runkit import atomic, printable

_PAGE = pathlib.Path(__file__).with_name("page")
_BEYOND_COLOURS = {
    paper_table.SHARED: "#56b4e9",
    paper_table.POOLED: "#cc79a7",
    paper_table.C1_TO_C2: "#b59a00",
    paper_table.C2_TO_C1: "#8a6bbf",
    paper_table.NO_VAE: "#7fbf9e",
}
_CURVE_PARTS = (
    ("dice", "validation Dice"),
    ("total", "loss"),
    ("kl", "KL (VAE)"),
    ("reconstruction", "L2 (VAE)"),
)
# key, text, site, column, unit, factor
_MEASURES = (
    ("C1_pancreas", "C1 pancreas, Dice", "C1", "dice_pancreas", "%", 100),
    ("C2_pancreas", "C2 pancreas, Dice", "C2", "dice_pancreas", "%", 100),
    ("C2_tumour", "C2 tumour, Dice", "C2", "dice_tumour", "%", 100),
    ("C1_false_tumour", "C1 false tumour", "C1", "volume_ml_tumour", "ml", 1),
    ("C1_hd95", "C1 pancreas, HD95", "C1", "hd95_mm_pancreas", "mm", 1),
    ("C2_hd95", "C2 tumour, HD95", "C2", "hd95_mm_tumour", "mm", 1),
    ("C2_nsd", "C2 tumour, surface Dice at 2 mm", "C2", "nsd_tumour", "%", 100),
    ("C2_components", "C2 tumour, connected parts", "C2", "components_tumour", "parts", 1),
    (
        "C2_roughness",
        "C2 tumour, surface to volume",
        "C2",
        "surface_volume_ratio_tumour",
        "1/mm",
        1,
    ),
)


def study_page(content: Mapping[str, Any], folder: str | os.PathLike) -> str:
    """Returns a study's joint page.

    Args:
      content: of `study_results.collect`.
      folder: of the study's runs, for the servers' logs, the histories and, where the cohort allows
          it, the pictures.
    """
    folder = pathlib.Path(folder)
    runs = [
        (f"{run['label']}, seed {run['seed']}", folder / run["folder"]) for run in content["runs"]
    ]
    data = _numbers(content, runs)
    pictures = content["pictures"] in ("synthetic", "public")
    if pictures and content["runs"]:
        first = next(
            (run for run in content["runs"] if run["state"] == "finished"), content["runs"][0]
        )
        data["browser"] = browser_cases(folder / first["folder"])
    finished = sum(run["state"] == "finished" for run in content["runs"])
    missing = [
        f"{run['label']}, seed {run['seed']}: {run['state']}"
        + (f" ({run['failure'].splitlines()[0]})" if run["failure"] else "")
        for run in content["runs"]
        if run["state"] != "finished"
    ]
    seeds = ", ".join(map(str, content["seeds"]))
    stacks = "; ".join(sorted({run["stack"] for run in content["runs"] if run.get("stack")}))
    return _page(
        f"Study {content['name']}",
        f"Profile {content['profile']}, seeds {seeds}. {finished} of {len(content['runs'])} runs finished. {stacks}",
        data,
        warning="This is a partial result.\n" + "\n".join(missing) if missing else "",
        sections=_study_sections(content, data, pictures),
    )


def site_page(
    run_folder: str | os.PathLike, site: str, rows: Iterable[Mapping[str, Any]] = ()
) -> str:
    """Returns a site's own page: its cases with slices and overlays. It stays at the site.

    Args:
      run_folder: holds `sites/<site>`.
      rows: per-case rows of this site, shown as a table beneath.
    """
    folder = pathlib.Path(run_folder)
    data = {
        "kind": "site",
        "browser": browser_cases(folder, (site,), all_cases=True),
        "colours": _colours(),
    }
    own = [row for row in rows if row["site"] == site and row["grid"] == "training"]
    table = _rows_table(own) if own else ""
    text = "Scans, labels and what the models made of them. This page was made at the site and stays there."
    browser = (
        '<section id="s-browser"><h2>Cases</h2><div id="browser"></div></section>'
        if data["browser"]
        else "<p>No mask is here yet.</p>"
    )
    return _page(
        f"Site {site}",
        text,
        data,
        sections=[("browser", "Cases", browser), *([("rows", "Rows", table)] if table else [])],
    )


def browser_cases(
    run_folder: str | os.PathLike,
    sites: Sequence[str] = paper_table.SITES,
    *,
    all_cases: bool = False,
) -> list[dict[str, Any]]:
    """Returns the cases for the slice browser, best, median and worst of FL_global at each site
    whose folder is at hand.
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
            title = f"{site}, case {case.number}" + (f" ({word} of FL_global)" if word else "")
            found.append(
                case_browser.entry(case, case_browser.masks_of(folders, case.number), title)
            )
    return found


def framed(page: str, height: int = 900) -> str:
    """Returns a page inside a frame, for a notebook's output."""
    return f'<div><iframe srcdoc="{html.escape(page, quote=True)}" width="100%" height="{height}" style="border:0"></iframe></div>'


def write(path: str | os.PathLike, page: str) -> None:
    atomic.write_text(path, page)


def _numbers(
    content: Mapping[str, Any], runs: Sequence[tuple[str, pathlib.Path]]
) -> dict[str, Any]:
    traces = [(label, table1_report.read_events(folder)) for label, folder in runs]
    data: dict[str, Any] = {
        "kind": "study",
        "seeds": content["seeds"],
        "colours": _colours(),
        "activities": ACTIVITY_COLOURS,
        "columns": list(
            zip(
                paper_table.COLUMNS,
                ("C1 pancreas", "C2 pancreas", "C2 tumour", "Pancreas average", "Average"),
                strict=True,
            )
        ),
        "paper_rows": [*paper_table.MODELS, paper_table.AVERAGE],
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
    """What was measured of patients; a study of an earlier release did not, and its rows are
    measured now.
    """
    if "patients" in content:
        return content["patients"]
    runs: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for row in content["cases"]:
        runs.setdefault((row.get("cohort", ""), row.get("seed")), []).append(row)
    return patients.of_runs([patients.Run(cohort, rows) for (cohort, _), rows in runs.items()])


def _curve(points: Iterable[Mapping[str, float]]) -> list[list[float]]:
    return [
        [round(float(p[key]), 4) for key in ("threshold", "false_alarms", "found", "low", "high")]
        for p in points
    ]


def _case_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rows as columns, numbers to four digits: a study of 184 cases must stay a small page."""
    present = {column for row in rows for column, value in row.items() if value is not None}
    measures = [
        {"key": key, "text": text, "site": site, "column": column, "unit": unit, "factor": factor}
        for key, text, site, column, unit, factor in _MEASURES
        if column in present
    ]
    columns = list(dict.fromkeys(m["column"] for m in measures))
    models = sorted({row["model"] for row in rows}, key=paper_table.position)
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
    """Returns one run's federation for the page: what each site did from when to when, in seconds
    since the server started.
    """
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
                _CLAIMS.format(not_asked=_not_asked(content.get("not_asked", ()))),
            ),
        ]
        if data["measures"]:
            sections.append(("cases", "Cases", _CASES))
    if content.get("sweep") is not None:
        sections.append(
            (
                "sweep",
                "Sweep",
                f"<h2>{_text(content['axis'].capitalize())}</h2>{_sweep_table(content)}",
            )
        )
    if data["browser"]:
        note = f"Pictures are shown because the cohort is {content['pictures']}."
        sections.append(
            (
                "pictures",
                "Pictures",
                f'<h2>Pictures</h2><p class="note">{note}</p><div id="browser"></div>',
            )
        )
    elif not pictures:
        sections.append(
            (
                "pictures",
                "Pictures",
                '<h2>Pictures</h2><p class="note">None: the scans belong to the sites. Each has a page of its own.</p>',
            )
        )
    if data["timelines"]:
        sections.append(("federation", "Federation", _FEDERATION))
    if data["curves"]:
        sections.append(("training", "Training", _TRAINING))
    sections.append(("cost", "Cost", f"<h2>Cost</h2>{_cost_table(content['runs'])}"))
    sections.append(
        ("departures", "Departures", f"<h2>Departures from the paper</h2>{_departures(content)}")
    )
    return sections


def _not_asked(things: Sequence[str]) -> str:
    return f'<p class="note">Not asked: {_text("; ".join(things))}.</p>' if things else ""


def _patients_section(measures: Mapping[str, Any]) -> str:
    head = ["Model", *patients_table.HEADINGS.values()]
    lines = [
        [name, *(patients_table.cell(own.get(key), key) for key in patients_table.HEADINGS)]
        for name, own in measures.items()
    ]
    return (
        f'<h2>Patients</h2><p class="note">{_text(patients_table.TEXT.replace("`", ""))}</p>{_html_table(head, lines)}'
        '<p class="note">What is found of the tumours against false alarms per patient, as the threshold of the score falls to 0: the dot, with '
        "its exact 95 % interval, is the mask as it is, the square the mask with the gate. One threshold serves all seeds.</p>"
        '<figure id="froc"></figure>'
    )


_TABLE = """<h2>Table 1</h2><p class="note">Dice in per cent on the sites' test cases: mean over seeds, ± half the 95 % interval of Student's t
over seeds, and the paper's number with the difference to it.</p><div class="controls" id="table-controls"></div><div class="scroll"
id="table"></div><details><summary class="note">How the numbers are made</summary>{definitions}</details>"""
_CLAIMS = """<h2>The paper's claims, and ours</h2><p class="note">Rules and margins were fixed before any number was looked at
(docs/verdicts.md). The bar is the 95 % interval over patients and trainings, the large dot its mean, the small dots the seeds, the diamond
the paper; the dashed line is no difference, the solid one the margin. "Coverage" is how often such an interval held the truth in simulated
studies, "shows" the smallest difference that a study like this one finds in 80 % of its repetitions. p is of the interval's own statistic,
Holm-corrected over all parts. Below three trainings nothing is measured.</p>{not_asked}
<div class="controls" id="verdict-controls"></div><div id="verdicts"></div>"""
_CASES = """<h2>Case by case</h2><p class="note">Every test case is a dot; the box spans the quartiles, its line is the median, the number at
the right the mean.</p><div class="controls" id="case-controls"></div><figure id="cases"></figure><h3>One model against another</h3>
<div class="controls" id="pair-controls"></div><figure id="pairs"></figure>"""
_FEDERATION = """<h2>The federation</h2><p class="note">Who did what when, by the server's clock; bands are rounds, diamonds
aggregations.</p><div class="controls" id="timeline-controls"></div><div class="legend">{}</div><figure id="timeline"></figure>""".format(
    "".join(
        f'<span><span class="chip" style="background:{"var(--waits)" if name == "waits" else colour}"></span>{name}</span>'
        for name, colour in ACTIVITY_COLOURS.items()
    )
)
_TRAINING = """<h2>Training</h2><p class="note">Validation Dice is on each site's own validation cases, whole volumes; bands are
rounds.</p><div class="controls" id="curve-controls"></div><figure id="curves"></figure>"""


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
    nav = "".join(f'<a href="#s-{key}">{_text(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="s-{key}">{content}</section>' for key, _, content in sections)
    browsed = data.get("browser", [])
    payload = _embedded({**data, "browser": [case["title"] for case in browsed]})
    # each case by itself: its pictures are decoded when it is chosen, not when the page opens
    cases = "".join(
        f'<script type="application/json" id="case-{i}">{_embedded(case)}</script>'
        for i, case in enumerate(browsed)
    )
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_text(title)}</title><link rel="icon" href="data:,">
<style>{style}</style></head><body>
<div class="bar"><div><nav>{nav}</nav><span class="right"><button id="theme" data-state="auto">Theme: auto</button>
<button id="print">Print</button></span></div></div>
<main><h1>{_text(title)}</h1><p class="lead">{_text(lead)}</p>{f'<div class="warn">{_text(warning)}</div>' if warning else ""}
{body}<footer>Research software, not a medical device. This page holds everything it shows and loads nothing.</footer></main>
<div id="tip"></div><script type="application/json" id="data">{payload}</script>{cases}<script>{script}</script><script>{browser}</script>
</body></html>
"""


def _embedded(value: Any) -> str:
    """JSON inside a script element, which a closing tag inside a string would end."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")


def _cost_table(runs: Sequence[Mapping[str, Any]]) -> str:
    stages = list(dict.fromkeys(stage for run in runs for stage in run["wall_seconds"]))
    head = ["Run", *stages, "together", "peak memory", "on the wire"]
    lines = []
    for run in runs:
        walls = [run["wall_seconds"].get(stage) for stage in stages]
        cells = [
            f"{run['label']}, seed {run['seed']}",
            *("–" if w is None else _clock(w) for w in walls),
        ]
        cells += [
            _clock(sum(w or 0 for w in walls)),
            f"{run['peak_memory_bytes'] / 2**30:.1f} GiB",
            f"{run['traffic']['bytes'] / 2**20:.0f} MiB",
        ]
        lines.append(cells)
    return _html_table(head, lines)


def _departures(content: Mapping[str, Any]) -> str:
    found = study_results.departures(content)
    notes = list(dict.fromkeys(note for run in content["runs"] for note in run["notes"]))
    return (
        _list(notes)
        + (_html_table(["setting", "here", "paper"], found) if found else "<p>None.</p>")
        + _list(table1_report.PAPER_STATEMENT.splitlines())
    )


def _sweep_table(content: Mapping[str, Any]) -> str:
    head = [
        content["axis"],
        *("C1 pancreas", "C2 pancreas", "C2 tumour", "Pancreas average", "Average"),
        "wall a run",
        "on the wire",
    ]
    lines = []
    for point in content["sweep"]:
        cells = [point["table"].get("FL_global", {}).get(column) for column in paper_table.COLUMNS]
        texts = [
            "–"
            if c is None
            else f"{c['mean']:.1f}"
            + ("" if c["low"] is None else f" ± {(c['high'] - c['low']) / 2:.1f}")
            for c in cells
        ]
        wall = "–" if point["wall_seconds"] is None else _clock(point["wall_seconds"])
        moved = "–" if point["bytes"] is None else f"{point['bytes'] / 2**20:.0f} MiB"
        lines.append([point["label"], *texts, wall, moved])
    return (
        '<p class="note">FL_global, Dice in per cent: mean over seeds ± half the 95 % interval.</p>'
        + _html_table(head, lines)
    )


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda row: (row["case"], paper_table.position(row["model"])))
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
    return "<h2>Rows</h2>" + _html_table(["case", *(key.replace("_", " ") for key in keys)], lines)


def _html_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(line.removeprefix('- '))}</li>" for line in lines)
    return f'<ul class="note">{items}</ul>' if items else ""


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _text(value: Any) -> str:
    return html.escape(printable.block(value))


def _colours() -> dict[str, str]:
    own = {**MODEL_COLOURS, **_BEYOND_COLOURS}
    return {**own, **{name + gated_rows.SUFFIX: colour for name, colour in own.items()}}
