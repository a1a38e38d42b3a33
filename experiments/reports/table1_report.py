"""Table 1 on disk: the JSON that holds it, its report as Markdown and CSV, and its figures."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from c2fnas.genotype import Genotype
from experiments import figures
from experiments.figures.style import COLUMN_HEADINGS
from experiments.models import devices
from experiments.reports import cells, patients_table
from experiments.results import fingerprints, patients, table1_document, table1_values
from experiments.results.case_rows import CaseRow
from federated.tensors import tensor_files
from runkit import atomic, events, markdown_tables, release

_PAPER_FLAGS = pathlib.Path(__file__).parents[1] / "flagfiles" / "paper.flags"
_NO_DEPARTURE = {"profile", "seed"}  # these identify a run; the paper's setting has no such value
_NOT_IN_PAPER = {
    "patches_per_case",
    "num_rounds",
    "inference_window",
    "inference_overlap",
    "inference_blending",
}


@dataclasses.dataclass(frozen=True)
class RunReport:
    """The files of a run.

    Attributes:
      document: the contents of `table1.json`.
      histories: model -> events of its training, for `figures.training_curves`.
      events: the server's events, for `figures.federation_timeline`.
      pictures: the sites' own pictures, if the sites' folders are on this machine.
    """

    document: Mapping[str, Any]
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    events: Sequence[Mapping[str, Any]]
    pictures: Sequence[pathlib.Path]


def write(
    folder: str | os.PathLike,
    rows: Iterable[CaseRow],
    *,
    config: Mapping[str, Any],
    wall_seconds: Mapping[str, float],
    peak_memory_bytes: int | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the table and its figures into a run's folder.

    Args:
      folder: the run's folder, for `table1.json`, `table1.md`, `table1.csv` and `figures/`.
        Training curves and timeline are drawn from `sites/*/*/history.jsonl` and
        `server/events.jsonl` in it, if they exist.
      rows: per-case rows.
      config: the experiment's configuration as JSON values, with `profile` and `seed`.
      wall_seconds: stage -> seconds.
      peak_memory_bytes: of all processes together, if known.
      notes: sentences about the data, printed with the departures from the paper, e.g. "Data:
        synthetic cohort, 18/6/6 cases".
    Returns:
      The contents of `table1.json`.
    """
    folder = pathlib.Path(folder)
    metadata = {
        "profile": config["profile"],
        "seed": config["seed"],
        "stack": release.stack(),
        "configuration": dict(config),
        "wall_seconds": dict(wall_seconds),
        "peak_memory_bytes": peak_memory_bytes,
        "notes": list(notes),
        "fingerprints": fingerprints.of_run(folder),
        "devices": devices_of_sites(folder),
    }
    content, run = document(rows, metadata), read_events(folder)
    _save(
        figures.table_figure(content["cases"], title=_title(content)),
        folder / "figures" / "table1.png",
    )
    if any(line["froc"] for line in content["patients"].values()):
        _save(figures.froc_figure(content["patients"]), folder / "figures" / "patients.png")
    if run.histories:
        _save(
            figures.training_curves(run.histories, config.get("num_rounds")),
            folder / "figures" / "training_curves.png",
        )
    if run.events:
        _save(
            figures.federation_timeline(run.events), folder / "figures" / "federation_timeline.png"
        )
    write_table(folder, content)
    return content


def write_table(folder: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes a document as `table1.json`, `table1.md` and `table1.csv`."""
    folder = pathlib.Path(folder)
    atomic.write_json(folder / "table1.json", content)
    atomic.write_text(folder / "table1.csv", csv_text(content))
    atomic.write_text(folder / "table1.md", markdown(content, pictures=_pictures(folder)))


def document(rows: Iterable[CaseRow], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the contents of `table1.json`: settings, the table in per cent, and its rows.

    Args:
      rows: per-case rows.
      metadata: `profile`, `seed`, `stack`, `configuration` and `wall_seconds` (stage -> seconds);
        optionally `peak_memory_bytes`, `notes` (sentences about the data), `fingerprints` (of
        models and data) and `devices` (site -> the devices it trained on).
    """
    cases = latest_rows(rows)
    lines = table1_values.table(cases)
    return {
        "profile": metadata["profile"],
        "seed": metadata["seed"],
        "stack": metadata["stack"],
        "configuration": dict(metadata["configuration"]),
        "rows": {name: dict(line.percent) for name, line in lines.items()},
        "contributing_cases": {name: dict(line.cases) for name, line in lines.items()},
        "findings": {
            name: dataclasses.asdict(finding)
            for name, finding in table1_values.findings(lines).items()
        },
        "patients": patients.of_rows(cases),
        "wall_seconds": dict(metadata["wall_seconds"]),
        "peak_memory_bytes": metadata.get("peak_memory_bytes"),
        "notes": list(metadata.get("notes", ())),
        **({"devices": dict(metadata["devices"])} if metadata.get("devices") else {}),
        "fingerprints": {"rows": fingerprints.of_rows(cases), **metadata.get("fingerprints", {})},
        "cases": cases,
    }


def latest_rows(rows: Iterable[CaseRow]) -> list[CaseRow]:
    """Returns the last row per model, site, case and grid, in the table's order."""
    latest = {
        (
            *table1_values.position(row["model"]),
            row["site"],
            row["case"],
            table1_values.GRIDS.index(row["grid"]),
        ): row
        for row in rows
    }
    return [latest[key] for key in sorted(latest)]


def read(folder: str | os.PathLike) -> RunReport:
    """Reads the files of a run.

    Raises:
      FileNotFoundError: naming the file, if there is no table yet.
      ValueError: as `table1_document.read`.
    """
    folder = pathlib.Path(folder)
    file = folder / "table1.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{file} does not exist; make it with `make table1`, or give another run's folder"
        )
    return dataclasses.replace(read_events(folder), document=table1_document.read(file))


def genotype_of(folder: str | os.PathLike) -> Genotype:
    """Returns the genotype of a run's network, from the plan in its initial model.

    The flag --genotype may name a file that only the folder in which the run was started leads to.

    Raises:
      ValueError: if the initial model holds no plan.
    """
    path = pathlib.Path(folder) / "initial.safetensors"
    with tensor_files.TensorFile(path) as file:
        plan = file.metadata.get("plan")
    if plan is None:
        raise ValueError(f"{path}: holds no plan; give the folder of a run")
    return Genotype.from_json(json.loads(plan)["genotype"])


def read_events(folder: str | os.PathLike) -> RunReport:
    """Reads the files of a run except for its table, which may not exist yet."""
    folder = pathlib.Path(folder)
    histories: dict[str, list[Mapping[str, Any]]] = {}
    for file in sorted(folder.glob("sites/*/*/history.jsonl")):
        for event in events.EventLog(file).read():
            histories.setdefault(event.get("model", file.parent.name), []).append(event)
    histories = {name: histories[name] for name in sorted(histories, key=table1_values.position)}
    return RunReport(
        {},
        histories,
        list(events.EventLog(folder / "server" / "events.jsonl").read()),
        sorted(folder.glob("sites/*/figures/*.png")),
    )


def devices_of_sites(folder: str | os.PathLike) -> dict[str, str]:
    """Returns site -> the devices it trained on, of the sites whose folders are in `folder`."""
    found: dict[str, list[str]] = {}
    for file in sorted(pathlib.Path(folder).glob("sites/*/*/history.jsonl")):
        found.setdefault(file.parents[1].name, []).extend(devices.of_training(file.parent))
    return {site: "; ".join(dict.fromkeys(texts)) for site, texts in found.items() if texts}


def departures(configuration: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (setting, value, paper's value) for each departure from the paper's profile."""
    found = []
    for name, expected in _paper_settings().items():
        if name in configuration and name not in _NO_DEPARTURE:
            value = configuration[name]
            here = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            if _comparable(here) != _comparable(expected):
                found.append((name, here, expected))
    return found


def csv_text(content: Mapping[str, Any]) -> str:
    """Returns the table as CSV: each cell in per cent, its number of cases, and the paper's."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "model",
            *(
                f"{column}{kind}"
                for column in table1_values.COLUMNS
                for kind in ("", "_cases", "_paper")
            ),
        ]
    )
    for name, percent in content["rows"].items():
        numbers: list[str] = []
        for column in table1_values.COLUMNS:
            paper = table1_values.PAPER_TABLE.get(name, {}).get(column)
            numbers += [
                _number(percent[column], 3),
                str(content["contributing_cases"][name][column]),
                _number(paper, 1),
            ]
        writer.writerow([name, *numbers])
    return stream.getvalue()


def markdown(content: Mapping[str, Any], *, pictures: Sequence[str] = ()) -> str:
    """Returns the report: the table beside the paper's, and the information needed to judge it.

    Args:
      content: the contents of `table1.json`.
      pictures: paths of pictures to show at the end, relative to the report.
    """
    sections = [
        f"# {_title(content)}",
        _table_markdown(content),
        "## The paper's findings in this run",
        _findings_markdown(content),
        "## Patients",
        patients_table.markdown(content.get("patients") or patients.of_rows(content["cases"])),
        "## Departures from the paper's settings",
        _departures_markdown(content),
        "## How the numbers are computed",
        DEFINITIONS,
        _native_markdown(content),
        "## The paper's own numbers",
        PAPER_STATEMENT,
        "## The run",
        _run_markdown(content),
        *(
            f"![{pathlib.PurePosixPath(picture).stem.replace('_', ' ')}]({picture})"
            for picture in pictures
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


DEFINITIONS = """\
- C1 pancreas, C2 pancreas and C2 tumour are means of the Dice of the sites' test cases, on the \
training grid.
- Pancreas average is the mean over the test cases of both sites, so each site counts by its \
number of cases. Average is the mean of pancreas average and C2 tumour. The row Average is the \
mean of the five models above it.
- A class that is in neither the truth nor the prediction of a case is not counted; a class that \
is only in the prediction counts as 0. A class that a site declares to be unlabelled has no score \
there.
- C1_FL_local and C2_FL_local are the sites' best models after local training, chosen by their own \
validation. FL_global is the last global model, without any choice, as in the paper. \
FL_best_global is the global model with the best score on the sites' validation cases; it is not \
part of the row Average.
- C1_FL_local_shared, if present, is the best of several local models that C1 lends, chosen by the \
validation cases of all sites. C1's own cases cannot show whether its model has unlearned a class \
that they do not have. It is not part of the row Average.
- Rows whose names end in _gated are of the same model with the healthy gate: if a patient's score \
is not above the gate's threshold, no tumour counts as marked. They are not part of the row \
Average.
- Every site scored the models on its own test cases, and the table is computed from the rows that \
the sites sent."""

PAPER_STATEMENT = """\
- The paper's bottom row is not the mean of its five rows. That mean is 78.3, 60.9, 40.7, 68.9, \
54.8; printed is 78.3, 60.7, 38.3, 68.7, 53.5. The row Average here is the true mean; the \
brackets show what is printed.
- The paper's other derived columns follow from its Dice columns with 84 test cases of C1 and 100 \
of C2, to within 0.1.
- Section 3 of the paper says that clients send gradients; according to its section 2.1 they send \
weights, and so they do here.
- Fig. 4 of the paper shows cases of C1, but its caption says that only the pancreas is labelled \
"in the Client 2 (C2) dataset"; it is C1's labels that contain only the pancreas."""


def _title(content: Mapping[str, Any]) -> str:
    return f"Table 1, profile {content['profile']}, seed {content['seed']}"


def _table_markdown(content: Mapping[str, Any]) -> str:
    rows, counts = content["rows"], content["contributing_cases"]
    common = {
        column: max((counts[name][column] for name in rows), default=0)
        for column in table1_values.COLUMNS
    }
    spacing = " × ".join(f"{float(s):g}" for s in content["configuration"].get("spacing_mm", ()))
    grid = f" ({spacing} mm)" if spacing else ""
    lines = [
        f"Dice in per cent on the sites' test cases, on the training grid{grid}; the paper's "
        "numbers are in brackets.",
        "",
    ]
    shown = []
    for name, percent in rows.items():
        texts = [cells.number(percent[column], 1) for column in table1_values.COLUMNS]
        for index, column in enumerate(table1_values.COLUMNS):
            if 0 < counts[name][column] < common[column]:
                texts[index] += f", n = {counts[name][column]}"
            if name in table1_values.PAPER_TABLE:
                texts[index] += f" ({table1_values.PAPER_TABLE[name][column]:.1f})"
        shown.append([f"**{name}**" if name == table1_values.AVERAGE else name, *texts])
    paper = table1_values.PAPER_TEST_CASES
    paper_counts = [paper["C1"], paper["C2"], paper["C2"], sum(paper.values())]
    texts = [
        f"{common[column]} ({number})"
        for column, number in zip(table1_values.COLUMNS, paper_counts, strict=False)
    ]
    lines += _dice_table([*shown, ["test cases", *texts, ""]])
    absent = [model for model in table1_values.MODELS if model not in rows]
    if absent:
        lines += ["", f"Not evaluated: {', '.join(absent)}. The row Average needs all five models."]
    return "\n".join(lines)


def _findings_markdown(content: Mapping[str, Any]) -> str:
    verdict = {True: "yes", False: "**no**", None: "unknown, numbers are missing"}
    rows = []
    for finding in content["findings"].values():
        numbers = ", ".join(
            f"{name} {cells.number(value, 1)}" for name, value in finding["numbers"].items()
        )
        rows.append([finding["claim"], verdict[finding["holds"]], numbers])
    lines = markdown_tables.lines(["finding", "holds", "numbers"], rows)
    marked = table1_values.false_tumours(content["cases"])
    if marked:
        parts = ", ".join(
            f"{name} {count} of {healthy}" for name, (count, healthy) in marked.items()
        )
        lines += ["", f"Healthy cases in which a model marks a tumour: {parts}."]
    return "\n".join(lines)


def _departures_markdown(content: Mapping[str, Any]) -> str:
    found = departures(content["configuration"])
    lines = [f"- {note}" for note in content["notes"]]
    if lines:
        lines.append("")
    if not found:
        return "\n".join([*lines, "None: all settings are those of the paper's profile."])
    lines += markdown_tables.lines(
        ["setting", "here", "paper"],
        [
            [f"`{name}`", here, paper + (" †" if name in _NOT_IN_PAPER else "")]
            for name, here, paper in found
        ],
    )
    if any(name in _NOT_IN_PAPER for name, _, _ in found):
        lines += [
            "",
            "† Not in the paper; taken from the first author's later public configuration.",
        ]
    return "\n".join(lines)


def _native_markdown(content: Mapping[str, Any]) -> str:
    native = table1_values.table(content["cases"], grid="native")
    if not native:
        return ""
    rows = [
        [name, *(cells.number(row.percent[column], 1) for column in table1_values.COLUMNS)]
        for name, row in native.items()
    ]
    text = "The same on each scan's own grid, to which the masks are resampled:"
    return "\n".join([text, "", *_dice_table(rows)])


def _run_markdown(content: Mapping[str, Any]) -> str:
    lines = [f"- Seed {content['seed']}, {content['stack']}."]
    if content.get("devices"):
        sites = "; ".join(f"{site} on {text}" for site, text in content["devices"].items())
        lines.append(f"- Trained by {sites}.")
    if content["wall_seconds"]:
        stages = ", ".join(
            f"{stage} {seconds:.0f} s" for stage, seconds in content["wall_seconds"].items()
        )
        lines.append(f"- Wall time {sum(content['wall_seconds'].values()) / 60:.1f} min: {stages}.")
    if content["peak_memory_bytes"]:
        lines.append(
            f"- Peak memory of all processes together {content['peak_memory_bytes'] / 2**30:.1f} "
            "GiB."
        )
    return "\n".join(lines)


def _dice_table(rows: Iterable[Sequence[str]]) -> list[str]:
    return markdown_tables.lines(
        ["Model", *(f"{COLUMN_HEADINGS[name]}#" for name in table1_values.COLUMNS)], rows
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _paper_settings() -> dict[str, str]:
    lines = (line.strip() for line in _PAPER_FLAGS.read_text(encoding="utf-8").splitlines())
    return dict(line[2:].split("=", 1) for line in lines if line.startswith("--"))


def _comparable(text: str) -> tuple[float | str, ...]:
    """Returns the parts of a setting, numbers as numbers, so that "1e-4" equals "0.0001"."""
    parts: list[float | str] = []
    for part in text.split(","):
        try:
            parts.append(float(part))
        except ValueError:
            parts.append(part.lower())  # "False" equals "false"
    return tuple(parts)


def _pictures(folder: pathlib.Path) -> list[str]:
    found = [*sorted(folder.glob("figures/*.png")), *sorted(folder.glob("sites/*/figures/*.png"))]
    return [file.relative_to(folder).as_posix() for file in found]


def _save(figure: Figure, path: pathlib.Path) -> None:
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary)
