"""A study's results: one table of means and intervals over seeds, verdicts, costs and sweeps."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.configuration import ExperimentConfig
from experiments.figures import style
from experiments.reports import patients_table, table1_report
from experiments.results import fingerprints, patients, table1_document, table1_values
from experiments.results.measures import Run
from experiments.results.statistics import intervals
from experiments.results.verdicts import claim_verdicts
from experiments.run import run_folder as run_folders
from experiments.studies import comparison, leakage_results, privacy_results, study_file
from experiments.studies import variants as study_variants
from experiments.studies.study_file import Study, title
from runkit import atomic, events, markdown_tables

SWEEP_TEXT = "FL_global, Dice in per cent: mean over seeds ± half the width of the 95 % interval."


def collect(
    study: Study, folder: str | os.PathLike, configs: Mapping[tuple[str, int], ExperimentConfig]
) -> dict[str, Any]:
    """Returns the contents of `study.json` from what the runs have written so far.

    Args:
      folder: the folder of the study's runs.
      configs: configurations by (label of the point, seed).
    """
    folder = pathlib.Path(folder)
    runs = []
    for point, seed in study.runs():
        config = configs[point.label, seed]
        cohort = study_file.cohort_key(study, config)
        home = study_file.run_folder(folder, point, seed)
        runs.append(_run(point, seed, config, cohort, home, folder))
    content: dict[str, Any] = {
        "name": study.name,
        "profile": study.profile,
        "seeds": list(study.seeds),
        "pictures": study.pictures,
        "axis": study.axis,
        "notes": list(study.notes),
        "runs": runs,
    }
    if study.axis:
        content["sweep"] = sweep(study, runs)
        if study.margin is not None:
            content["comparison"] = comparison.collect(study, runs)
        privacy = privacy_results.collect(study, runs)
        if privacy is not None:
            content["privacy"] = privacy
        if study.nonmembers:
            content["leakage"] = leakage_results.collect(study, runs, folder)
        return content
    joint = joint_rows(study, runs)
    if not study.variants:
        return {**content, **_joint(joint)}
    # All variants are runs of the same method: the table is that of the first, but the claims are
    # judged by all runs.
    judged = [Run(run["seed"], run["cohort"], run["rows"]) for run in runs]
    return {**content, **_joint(joint, judged), "variants": study_variants.collect(runs)}


def _run(
    point: study_file.Point,
    seed: int,
    config: ExperimentConfig,
    cohort: str,
    folder: pathlib.Path,
    root: pathlib.Path,
) -> dict[str, Any]:
    log = events.EventLog(folder / "server" / "events.jsonl")
    times = run_folders.times_so_far(folder)
    table_file = folder / "table1.json"
    document = table1_document.read(table_file) if table_file.exists() else {}
    rows = document.get("cases") or run_folders.rows_so_far(folder)
    failure = folder / "failure.txt"
    return {
        "label": point.label,
        "seed": seed,
        "folder": folder.relative_to(root).as_posix(),
        "state": "finished"
        if document
        else "failed"
        if failure.exists()
        else "unfinished"
        if times["wall_seconds"]
        else "not begun",
        "failure": failure.read_text(encoding="utf-8") if failure.exists() else None,
        "cohort": cohort,
        "stack": document.get("stack"),
        "devices": document.get("devices", {}),
        "configuration": config.to_json(),
        "fingerprints": document.get(
            "fingerprints", {"rows": fingerprints.of_rows(rows)} if rows else {}
        ),
        "wall_seconds": times["wall_seconds"],
        "peak_memory_bytes": times["peak_memory_bytes"],
        "traffic": traffic(log.read()),
        "updates": privacy_results.told(log.read()),
        "notes": document.get("notes", []),
        "rows": rows,
    }


def of_one_run(folder: str | os.PathLike, pictures: str = "private") -> dict[str, Any]:
    """Returns one finished run's results in the form of a study, for the same page.

    Raises:
      FileNotFoundError: if the folder has no table yet.
    """
    folder = pathlib.Path(folder)
    document = table1_report.read(folder).document
    rows, seed = document["cases"], document["seed"]
    log = events.EventLog(folder / "server" / "events.jsonl")
    run = {
        "label": document["profile"],
        "seed": seed,
        "folder": ".",
        "state": "finished",
        "failure": None,
        "cohort": "",
        "stack": document["stack"],
        "devices": document.get("devices", {}),
        "configuration": document["configuration"],
        "fingerprints": document.get("fingerprints", {}),
        "wall_seconds": document["wall_seconds"],
        "peak_memory_bytes": document["peak_memory_bytes"] or 0,
        "traffic": traffic(log.read()),
        "updates": privacy_results.told(log.read()),
        "notes": document["notes"],
        "rows": rows,
    }
    joint = [Run(seed, "", rows)]
    privacy = privacy_results.of_one_run(run)
    return {
        "name": f"{document['profile']}, seed {seed}",
        "profile": document["profile"],
        "seeds": [seed],
        "pictures": pictures,
        "axis": None,
        "notes": [],
        "runs": [run],
        **_joint(joint),
        **({} if privacy is None else {"privacy": privacy}),
    }


def _joint(joint: Sequence[Run], judged: Sequence[Run] = ()) -> dict[str, Any]:
    """Returns the results of all rows together.

    Args:
      joint: the runs of the table.
      judged: the runs on which the claims are judged, if different.
    """
    return {
        "table": table(joint),
        "native": table(joint, "native"),
        "patients": patients.of_runs(joint),
        "verdicts": [v.to_json() for v in claim_verdicts.evaluate(judged or joint)],
        "not_asked": list(claim_verdicts.NOT_ASKED),
        "cases": [
            {**row, "seed": run.seed, "cohort": run.cohort} for run in joint for row in run.rows
        ],
    }


def joint_rows(study: Study, runs: Sequence[Mapping[str, Any]]) -> list[Run]:
    """Returns one run per seed: the first point's rows, and the later points' renamed `rows`."""
    renamed = {point.label: point.rows for point in study.points}
    first = study.points[0].label
    joint = []
    for seed in study.seeds:
        rows, cohort = [], ""
        for run in runs:
            if run["seed"] != seed:
                continue
            cohort = cohort or run["cohort"]
            names = renamed[run["label"]]
            if run["label"] == first:
                rows += run["rows"]
            else:
                rows += [
                    {**row, "model": names[row["model"]]}
                    for row in run["rows"]
                    if row["model"] in names
                ]
        joint.append(Run(seed, cohort, rows))
    return joint


def table(runs: Sequence[Run], grid: str = "training") -> dict[str, dict[str, dict[str, Any]]]:
    """Returns row -> column -> mean over seeds, Student interval, value by seed, number of cases.

    The interval is None for a single seed. A seed without a row or a value is left out of that
    cell; a cell without any seed is absent.
    """
    lines = {run.seed: table1_values.table(run.rows, grid) for run in runs}
    names = sorted({name for line in lines.values() for name in line}, key=table1_values.position)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        for column in table1_values.COLUMNS:
            cells = {
                seed: line[name]
                for seed, line in lines.items()
                if name in line and line[name].percent[column] is not None
            }
            if cells:
                values: dict[str, float] = {
                    str(seed): value
                    for seed, cell in cells.items()
                    if (value := cell.percent[column]) is not None
                }
                interval = intervals.student_interval(list(values.values()))
                found.setdefault(name, {})[column] = {
                    "mean": sum(values.values()) / len(values),
                    "low": None if interval is None else interval.low,
                    "high": None if interval is None else interval.high,
                    "by_seed": values,
                    "cases": sum(cell.cases[column] for cell in cells.values()),
                    "paper": table1_values.PAPER_TABLE.get(name, {}).get(column),
                }
    return found


def sweep(study: Study, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns each point's label, table over seeds, and mean cost per run (wall time, bytes)."""
    points = []
    for point in study.points:
        own = [run for run in runs if run["label"] == point.label]
        walls = [sum(run["wall_seconds"].values()) for run in own if run["state"] == "finished"]
        moved = [run["traffic"]["bytes"] for run in own if run["state"] == "finished"]
        points.append(
            {
                "label": point.label,
                "table": table([Run(run["seed"], run["cohort"], run["rows"]) for run in own]),
                "wall_seconds": sum(walls) / len(walls) if walls else None,
                "bytes": sum(moved) / len(moved) if moved else None,
                "runs": len(walls),
            }
        )
    return points


def traffic(server_events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns each site's bytes sent and fetched and its transfer time, from the server's log."""
    sites: dict[str, dict[str, float]] = {}
    for event in server_events:
        if event.get("site") and event["event"] in ("pulled", "pushed", "published"):
            own = sites.setdefault(
                event["site"], {"sent_bytes": 0, "fetched_bytes": 0, "seconds": 0.0}
            )
            own["fetched_bytes" if event["event"] == "pulled" else "sent_bytes"] += int(
                event.get("bytes") or 0
            )
            own["seconds"] += float(event.get("seconds") or 0.0)
    return {
        "sites": sites,
        "bytes": sum(own["sent_bytes"] + own["fetched_bytes"] for own in sites.values()),
    }


def write(folder: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes `study.json` and `study.md` atomically."""
    folder = pathlib.Path(folder)
    kept = {
        **content,
        "runs": [
            {key: value for key, value in run.items() if key != "rows"} for run in content["runs"]
        ],
    }
    atomic.write_json(folder / "study.json", kept)
    atomic.write_text(folder / "study.md", markdown(content))


def markdown(content: Mapping[str, Any]) -> str:
    """Returns the study as Markdown: its progress, table, verdicts and cost."""
    runs = content["runs"]
    finished = sum(run["state"] == "finished" for run in runs)
    seeds = ", ".join(map(str, content["seeds"]))
    lines = [f"# {title(content['name'])}: profile {content['profile']}, seeds {seeds}", ""]
    lines += [
        f"{finished} of {len(runs)} runs are finished."
        + ("" if finished == len(runs) else " **This is a partial result.**"),
        "",
    ]
    for run in runs:
        if run["state"] != "finished":
            reason = f": {run['failure'].splitlines()[0]}" if run["failure"] else ""
            lines.append(f"- {run['label']}, seed {run['seed']}: {run['state']}{reason}")
    if content.get("sweep") is not None:
        lines += _sweep_lines(content)
        if content.get("comparison") is not None:
            lines += comparison.markdown(content["comparison"])
        if content.get("privacy") is not None:
            lines += privacy_results.markdown(content["privacy"])
        if content.get("leakage") is not None:
            lines += leakage_results.markdown(content["leakage"])
    else:
        if content.get("variants") is not None:
            lines += ["", *study_variants.markdown(content["variants"])]
        lines += [
            "",
            *_table_lines(content["table"]),
            "",
            *_verdict_lines(content["verdicts"], content.get("not_asked", ())),
        ]
        if content.get("patients"):
            lines += ["", "## Patients", "", patients_table.markdown(content["patients"])]
    costs = [
        [
            f"{run['label']}, seed {run['seed']}",
            f"{sum(run['wall_seconds'].values()) / 60:.1f} min",
            f"{run['peak_memory_bytes'] / 2**30:.1f} GiB",
            f"{run['traffic']['bytes'] / 2**20:.0f} MiB",
        ]
        for run in runs
    ]
    lines += ["", "## Cost", ""]
    lines += markdown_tables.lines(["run", "wall time#", "peak memory#", "transferred#"], costs)
    total = sum(sum(run["wall_seconds"].values()) for run in runs) / 60
    lines += [f"| total | {total:.1f} min | | |", ""]
    return "\n".join(lines)


def cell_text(cell: Mapping[str, Any] | None, *, paper: bool = False) -> str:
    """Returns a cell of `table`, e.g. "75.0 ± 6.5"; with `paper`, also the paper's value."""
    if cell is None:
        return "–"
    half = "" if cell["low"] is None else f" ± {(cell['high'] - cell['low']) / 2:.1f}"
    printed = f" ({cell['paper']:.1f})" if paper and cell["paper"] is not None else ""
    return f"{cell['mean']:.1f}{half}{printed}"


def _table_lines(rows: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Table 1 over seeds",
        "",
        "Dice in per cent: mean over seeds ± half the width of the 95 % interval (Student's t); "
        "the paper's value in brackets.",
        "",
    ]
    if not rows:
        return [*lines[:2], "There are no rows yet."]
    return lines + markdown_tables.lines(
        ["Model", *(f"{heading}#" for heading in style.COLUMN_HEADINGS.values())],
        [
            [name, *(cell_text(own.get(column), paper=True) for column in table1_values.COLUMNS)]
            for name, own in rows.items()
        ],
    )


def _verdict_lines(verdicts: Sequence[Mapping[str, Any]], not_asked: Sequence[str]) -> list[str]:
    lines = [
        "## The claims",
        "",
        "Estimate [95 % interval over patients and trainings]; the numbers of patients and "
        "trainings; how often such an interval contains the true value; p after Holm's "
        "correction; and the smallest difference that such a study detects with 80 % power, "
        "without and with Holm's correction. The rules are in docs/verdicts.md.",
        "",
    ]
    rows = []
    for verdict in verdicts:
        parts = "; ".join(f"{part['text']}: {part_numbers(part)}" for part in verdict["parts"])
        word = (
            verdict["verdict"]
            if verdict["verdict"] == claim_verdicts.UNDECIDED
            else f"**{verdict['verdict']}**"
        )
        rows.append([verdict["claim"], verdict["source"], word, parts])
    lines += markdown_tables.lines(["claim", "source", "verdict", "numbers"], rows)
    return [*lines, "", f"Not examined: {'; '.join(not_asked)}."] if not_asked else lines


def part_numbers(part: Mapping[str, Any]) -> str:
    """Returns a part's estimate, interval, sample size, coverage, adjusted p and power as text.

    `part` may come from an earlier release, which counted only patients and computed no power.
    """
    interval = part["interval"]
    if interval is None:
        return "not measured"
    share = part["rule"] in ("gone", "zero") and ("trainings" in part or part["rule"] == "gone")
    scale, sign, digits, unit = (
        (100, "", 0, "%") if share else (1, "+", 3 if part["unit"] == "1/mm" else 1, part["unit"])
    )

    def number(value: float) -> str:
        return f"{value * scale:{sign}.{digits}f}"

    text = number(interval["estimate"])
    if interval["low"] is not None:
        text += f" [{number(interval['low'])}, {number(interval['high'])}]"
    text += f" {unit}, n = {interval['count']}"
    if part.get("trainings"):
        text += f" in {part['trainings']} training{'s' * (part['trainings'] != 1)}"
    if part.get("coverage") is not None:
        text += f", coverage {100 * part['coverage']:.0f} %"
    if part["p_holm"] is not None:
        text += f", p = {part['p_holm']:.2g}"
    if part.get("detectable") is not None:
        # A Dice cannot differ by more than 100 points.
        alone, after = (
            "none" if unit == "points" and part[key] > 100 else f"{part[key] * scale:.{digits}f}"
            for key in ("detectable", "detectable_holm")
        )
        text += (
            f", at best below {alone} % ({after} % after Holm)"
            if share
            else f", detects {alone} ({after} after Holm)"
        )
    return text


def _sweep_lines(content: Mapping[str, Any]) -> list[str]:
    (axis, *headings), rows = sweep_table(content)
    return [
        "",
        f"## {axis[0].upper()}{axis[1:]}",
        "",
        SWEEP_TEXT,
        "",
        *markdown_tables.lines([axis, *(f"{name}#" for name in headings)], rows),
    ]


def sweep_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the rows of a sweep's table: what FL_global scored at each point."""
    head = [content["axis"], *style.COLUMN_HEADINGS.values(), "wall time per run", "transferred"]
    rows = []
    for point in content["sweep"]:
        row = point["table"].get("FL_global", {})
        cells = [cell_text(row.get(column)) for column in table1_values.COLUMNS]
        wall = "–" if point["wall_seconds"] is None else f"{point['wall_seconds'] / 60:.1f} min"
        moved = "–" if point["bytes"] is None else f"{point['bytes'] / 2**20:.0f} MiB"
        rows.append([point["label"], *cells, wall, moved])
    return head, rows


def read(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads the `study.json` of a study's folder.

    Raises:
      FileNotFoundError: if there is none yet.
    """
    file = pathlib.Path(folder) / "study.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{file} is missing; create it with `make study`, or give another study's folder"
        )
    return atomic.read_json(file)


def departures(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the first run's differences from the paper's profile: (setting, here, paper)."""
    return table1_report.departures(content["runs"][0]["configuration"]) if content["runs"] else []
