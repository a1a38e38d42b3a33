"""The files of an evaluation of models at sites: its JSON, and its tables.

The tables are written as HTML, Markdown and CSV.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.reports import cells, html_parts, patients_table, table1_report
from experiments.results import (
    evaluation_table,
    fingerprints,
    patients,
    score_summary,
    table1_values,
)
from federated.audit import chain, verification
from federated.audit.carried import Carried
from federated.storage.store_folder import StoreFolder
from federated.tensors.tensor_files import TensorFile, file_digest
from runkit import atomic, markdown_tables, release

FILES = tuple(f"evaluation.{kind}" for kind in ("json", "csv", "md", "html"))
# Heading, measure, factor, unit, digits, grid.
_TABLES = (
    ("Dice", "dice", 100.0, "per cent", 1, "training"),
    ("Surface Dice at 2 mm", "nsd", 100.0, "per cent", 1, "training"),
    ("95th percentile of the surface distance", "hd95_mm", 1.0, "mm", 1, "training"),
    ("Dice on each scan's own grid", "dice", 100.0, "per cent", 1, "native"),
)
DEFINITIONS = """\
Every site scored the models on its own test cases; only rows of numbers left it. A cell is the \
mean over the cases of a site, or over those of all sites together, with its 95 % interval over \
patients (Student's t within sites, wider where the values are skewed; a dash is an end that the \
cases do not determine) and the number of cases. A class that is in neither the truth nor the \
prediction of a case is not counted; a class that is only in the prediction counts as 0 in both \
kinds of Dice. A class that a site declares to be unlabelled has no score there. The training \
grid is that of the models' plan. Only a model's weights are scored: the healthy gate that a \
model's folder may hold is not applied here. Only a model whose name ends in `_gated` has a gate, \
which was fitted in this evaluation to the sites without tumours."""


def document(store: str | os.PathLike) -> dict[str, Any]:
    """Returns the contents of `evaluation.json`, after auditing the store.

    Args:
      store: a server's folder, or a copy of it; the run may still be in progress.
    Raises:
      ValueError: if the folder has no log, or no rows yet.
      BrokenChain: if log, models and rows do not match.
    """
    files = StoreFolder(store)
    found = verification.verify(store)
    models, sites, finished, announced = _logged(files)
    path = files.folder / "rows.jsonl"
    rows = table1_values.read_rows(path, any_site=True) if path.is_file() else []
    if not rows:
        raise ValueError(
            f"{files.folder}: no site has sent rows yet; experiments.status shows how far it is"
        )
    cases = table1_report.latest_rows(rows)
    tested = {(row["site"], row["case"]) for row in cases if row["grid"] == "training"}
    scored = {row["model"] for row in cases}
    with TensorFile(files.global_path(0)) as initial:
        plan = json.loads(initial.metadata["plan"])
    if plan.get("schedule", {}).get("num_rounds") == 0:
        asked, expected = set(models), {site: announced.get(site, 0) for site in found.rows}
    else:  # sites announce training cases, and some lent models only serve a choice
        asked, expected = models.keys() & scored, dict.fromkeys(found.rows, 0)
    gaps = evaluation_table.gaps(cases, sorted(asked), expected)
    return {
        "release": release.version(),
        "finished": finished,
        "plan": plan,
        "models": {name: digest for name, digest in sorted(models.items()) if name in scored},
        "sites": {
            site: {
                "reported": site in found.rows,
                "cases": sum(of == site for of, _ in tested),
                "missing": gaps.get(site, {}),
            }
            for site in sorted({*sites, *found.rows})
        },
        "lines": evaluation_table.lines(cases),
        "patients": patients.of_rows(cases),
        "audit": {
            "lines": found.lines,
            "head": found.head,
            "removed_lines": found.removed_lines,
            "removed_rounds": found.removed_rounds,
        },
        "fingerprints": {"rows": fingerprints.of_rows(cases)},
        "cases": cases,
    }


def write(folder: str | os.PathLike, content: Mapping[str, Any]) -> list[pathlib.Path]:
    """Writes `evaluation.json`, `.csv`, `.md` and `.html` from a document; returns their paths."""
    folder = pathlib.Path(folder)
    paths = [folder / name for name in FILES]
    atomic.write_json(paths[0], dict(content))
    atomic.write_text(paths[1], score_summary.csv_text(content["lines"]))
    atomic.write_text(paths[2], markdown(content))
    atomic.write_text(paths[3], html(content))
    return paths


def markdown(content: Mapping[str, Any]) -> str:
    """Returns the report as Markdown."""
    parts = [f"# {title(content)}", _state(content), DEFINITIONS]
    for heading, head, rows in _tables(content):
        parts += [f"## {heading}", _markdown_table(head, rows)]
    parts += ["## Patients", patients_table.markdown(content["patients"]), "## Models"]
    parts += [_markdown_table(*_models(content)), "## Sites", _markdown_table(*_sites(content))]
    return "\n\n".join([*parts, _audited(content)]) + "\n"


def html(content: Mapping[str, Any]) -> str:
    """Returns the report as one HTML page without scripts, fonts or links."""
    parts = [f"<p>{html_parts.text(DEFINITIONS)}</p>"]
    for heading, head, rows in _tables(content):
        parts += [f"<h2>{html_parts.text(heading)}</h2>", html_parts.table(head, rows)]
    parts += [
        "<h2>Patients</h2>",
        f"<p>{html_parts.text(patients_table.TEXT.replace('`', ''))}</p>",
        html_parts.table(*patients_table.table(content["patients"])),
        "<h2>Models</h2>",
        html_parts.table(*_models(content)),
        "<h2>Sites</h2>",
        html_parts.table(*_sites(content)),
        f'<p class="soft">{html_parts.text(_audited(content))}</p>',
    ]
    return html_parts.page(title(content), _state(content), *parts)


def title(content: Mapping[str, Any]) -> str:
    models, sites = len(content["models"]), sum(s["reported"] for s in content["sites"].values())
    return (
        f"Evaluation of {models} {'model' if models == 1 else 'models'} at {sites} "
        f"{'site' if sites == 1 else 'sites'}"
    )


def _state(content: Mapping[str, Any]) -> str:
    missing = [site for site, about in content["sites"].items() if not about["reported"]]
    if content["finished"]:
        ended = "The evaluation is finished."
    else:
        ended = "The evaluation is still running; this page shows the rows received so far."
    ended += f" No rows came from {', '.join(missing)}." if missing else ""
    if partial := [site for site, about in content["sites"].items() if about.get("missing")]:
        ended += (
            f" {', '.join(partial)} sent rows of only some models or cases (see Sites), so the "
            "means of different models are over different cases: do not compare them."
        )
    return ended


def _tables(
    content: Mapping[str, Any],
) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Yields heading, column headings and rows of every table that has a number."""
    for heading, measure, factor, unit, digits, grid in _TABLES:
        found = evaluation_table.cells(content["lines"], measure=measure, grid=grid)
        if any(line["mean"] is not None for own in found.values() for line in own.values()):
            columns = [column for own in found.values() for column in own]
            rows = [
                [model, *(_cell(line, factor, digits) for line in own.values())]
                for model, own in found.items()
            ]
            head = ["Model", *(f"{column}#" for column in dict.fromkeys(columns))]
            yield f"{heading} ({unit})", head, rows


def _cell(line: Mapping[str, Any], factor: float, digits: int) -> str:
    mean = cells.with_interval(line, digits, factor=factor, of="mean")
    return mean if line["mean"] is None else f"{mean}, n = {line['cases']}"


def _models(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    return ["Model", "SHA-256 of its weights"], [
        [name, digest] for name, digest in content["models"].items()
    ]


def _sites(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    return ["Site", "Test cases#", "Rows"], [
        [site, str(about["cases"]), _received(about)] for site, about in content["sites"].items()
    ]


def _received(about: Mapping[str, Any]) -> str:
    if not about["reported"]:
        return "missing"
    lacking = [
        f"{model} {count} {'case' if count == 1 else 'cases'}"
        for model, count in about.get("missing", {}).items()
    ]
    return "received" + (f"; without a row: {', '.join(lacking)}" if lacking else "")


def _audited(content: Mapping[str, Any]) -> str:
    audit = content["audit"]
    removed = (
        f" Lines 1 to {audit['removed_lines']} of it were removed by the server's setting; rounds "
        f"up to {audit['removed_rounds']} and the choice of the best model are not checked."
        if audit["removed_rounds"]
        else f" Lines 1 to {audit['removed_lines']} of it were removed by the server's setting."
        if audit["removed_lines"]
        else ""
    )
    return (
        f"Models and rows are those of the server's log of {audit['lines']} lines, whose head is "
        f"{audit['head']}.{removed} Release {content['release']}."
    )


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(markdown_tables.lines(head, rows))


def _logged(store: StoreFolder) -> tuple[dict[str, str], set[str], bool, dict[str, int]]:
    """Reads a run's log.

    Returns:
      (Name -> digest of every model, the sites that take part, whether the run ended, site ->
      number of cases that it announced).
    """
    models, sites, finished, globals_ = dict[str, str](), set[str](), False, dict[int, str]()
    announced = dict[str, int]()
    best: int | None = None
    for record in chain.read_chain(store.folder / "events.jsonl", None):
        if record["event"] == "log_continued":  # earlier lines may have been removed
            run = Carried.from_json(record["carried"])
            models.update({name: sha256 for name, (_, sha256) in run.published.items()})
            models.update(run.given)
            sites.update(run.num_examples.keys() - run.evicted)
            announced.update(run.num_examples)
            finished = run.finished
            if run.round and run.sha256:
                globals_[run.round] = models["FL_global"] = run.sha256
            best = run.best_round
        elif record["event"] == "given" or record["event"] == "published":
            models[record["model"]] = record["sha256"]
        elif record["event"] == "aggregated":
            globals_[record["round"]] = models["FL_global"] = record["sha256"]
        elif record["event"] == "models_fixed":
            best = record.get("best_round", best)
        elif record["event"] == "login":
            sites.add(record["site"])
            announced[record["site"]] = record["num_examples"]
        elif record["event"] == "readmitted":
            sites.add(record["site"])
        elif record["event"] == "evicted":
            sites.discard(record["site"])
        elif record["event"] == "finished":
            finished = True
    path = store.folder / "best.safetensors"
    if best in globals_:
        models["FL_best_global"] = globals_[best]
    elif best is not None and path.is_file():  # round 0, or the lines of its round were removed
        with TensorFile(path) as file:
            models["FL_best_global"] = file_digest(file)
    return models, sites, finished, announced
