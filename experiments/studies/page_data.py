"""What the scripts of a study's page draw: table, cases, curves, time lines and pictures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from experiments.figures.learning_curves import Timeline
from experiments.figures.style import COLUMN_HEADINGS, MODEL_COLOURS
from experiments.figures.timeline import ACTIVITY_COLOURS, activities, round_times
from experiments.reports import case_browser, table1_report
from experiments.results import case_rows, gated_rows, patients, table1_values
from experiments.results.case_rows import CaseRow
from experiments.results.measures import Run
from experiments.studies import study_results
from preprocessing.case_store import CaseStore

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


def numbers(content: Mapping[str, Any], runs: Sequence[tuple[str, pathlib.Path]]) -> dict[str, Any]:
    """Returns what a study's page draws, apart from its pictures.

    Args:
      content: from `study_results.collect`.
      runs: (label, folder) of each run.
    """
    traces = [(label, table1_report.read_events(folder)) for label, folder in runs]
    data: dict[str, Any] = {
        "kind": "study",
        "seeds": content["seeds"],
        "colours": colours(),
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
            for name, own in patient_measures(content).items()
            if own["froc"]
        ]
    return data


def patient_measures(content: Mapping[str, Any]) -> Mapping[str, Any]:
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
    rows = [_with_false_tumour_only(row) for row in rows]
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


def _with_false_tumour_only(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a row whose volume of tumour is None unless the patient is known to be healthy."""
    healthy = case_rows.has_tumour(cast("CaseRow", row)) is False
    return row if healthy else {**row, "volume_ml_tumour": None}


def timeline(label: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns each site's activities in one run, in seconds since the server's first event."""
    found = [event for event in found if isinstance(event.get("time"), (int, float))]
    start = min((event["time"] for event in found), default=0.0)
    end = max((event["time"] for event in found), default=0.0)
    opened, closed = round_times(found)
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
            for n, t in opened.items()
        ],
        "aggregated": [round(t - start, 2) for t in closed.values()],
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


def one_case_of_each_point(
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


def colours() -> dict[str, str]:
    own = {**MODEL_COLOURS, **_BEYOND_COLOURS}
    return {**own, **{name + gated_rows.SUFFIX: colour for name, colour in own.items()}}
