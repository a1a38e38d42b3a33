"""Table 1 on disk: the JSON that keeps it, the markdown and CSV that show it, the figures beside
it, and the way back.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from c2fnas.scores import metrics
from experiments import figures
from experiments.reports import patients_table
from experiments.results import fingerprints, paper_table, patients
from runkit import atomic, events

_HEADINGS = {
    "C1_pancreas": "C1 pancreas",
    "C2_pancreas": "C2 pancreas",
    "C2_tumour": "C2 tumour",
    "pancreas_average": "Pancreas average",
    "average": "Average",
}
_PAPER_FLAGS = pathlib.Path(__file__).parents[1] / "flagfiles" / "paper.flags"
_NO_DEPARTURE = {"profile", "seed"}  # these name a run; they are no part of the paper's setting
_NOT_IN_PAPER = {
    "patches_per_case",
    "num_rounds",
    "inference_window",
    "inference_overlap",
    "inference_blending",
}


@dataclasses.dataclass(frozen=True)
class RunReport:
    """What a run left behind.

    Attributes:
      document: the contents of `table1.json`.
      histories: model -> events of its training, for `figures.training_curves`.
      events: the server's events, for `figures.federation_timeline`.
      pictures: the sites' own pictures, where their folders are at hand.
    """

    document: Mapping[str, Any]
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    events: Sequence[Mapping[str, Any]]
    pictures: Sequence[pathlib.Path]


def write(
    folder: str | os.PathLike,
    rows: Iterable[Mapping[str, Any]],
    *,
    config: Mapping[str, Any],
    wall_seconds: Mapping[str, float],
    peak_memory_bytes: int | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the table and its figures into a run's folder.

    Args:
      folder: gets `table1.json`, `table1.md`, `table1.csv` and `figures/`; the training curves and
        the timeline are drawn from `sites/*/*/history.jsonl` and `server/events.jsonl` inside it,
        where these are.
      rows: per-case rows, as in `results`.
      config: the experiment's configuration as JSON values; `profile` and `seed` among them.
      notes: sentences about the data, printed with the departures from the paper, e.g. "Data:
          synthetic cohort, 18/6/6 cases".
    Returns:
      The contents of `table1.json`.
    """
    folder, rows = pathlib.Path(folder), list(rows)  # read twice below
    metadata = {
        "profile": config["profile"],
        "seed": config["seed"],
        "stack": stack(),
        "configuration": dict(config),
        "wall_seconds": dict(wall_seconds),
        "peak_memory_bytes": peak_memory_bytes,
        "notes": list(notes),
        "fingerprints": fingerprints.of_run(folder),
    }
    run = dataclasses.replace(read_events(folder), document=document(rows, metadata))
    _save(
        figures.table_figure(run.document["cases"], title=_title(run.document)),
        folder / "figures" / "table1.png",
    )
    if any(line["froc"] for line in run.document["patients"].values()):
        _save(figures.froc_figure(run.document["patients"]), folder / "figures" / "patients.png")
    if run.histories:
        _save(
            figures.training_curves(run.histories, config.get("num_rounds")),
            folder / "figures" / "training_curves.png",
        )
    if run.events:
        _save(
            figures.federation_timeline(run.events), folder / "figures" / "federation_timeline.png"
        )
    return write_table(folder, rows, metadata)


def write_table(
    folder: str | os.PathLike, rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes `table1.json`, `table1.md` and `table1.csv`, each whole or not at all, and returns the
    contents of the first.

    Args:
      metadata: `profile`, `seed`, `stack`, `configuration` and `wall_seconds` (stage -> seconds);
        optionally `peak_memory_bytes` and `notes` (sentences about the data) and `fingerprints` (of
        models and data).
    """
    folder = pathlib.Path(folder)
    content = document(rows, metadata)
    atomic.write_json(folder / "table1.json", content)
    atomic.write_text(folder / "table1.csv", csv_text(content))
    atomic.write_text(folder / "table1.md", markdown(content, pictures=_pictures(folder)))
    return content


def document(rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the contents of `table1.json`: what decided the numbers, the table in per cent, and
    the rows it was computed from.
    """
    cases = latest_rows(rows)
    lines = paper_table.table(cases)
    return {
        "profile": metadata["profile"],
        "seed": metadata["seed"],
        "stack": metadata["stack"],
        "configuration": dict(metadata["configuration"]),
        "rows": {name: dict(line.percent) for name, line in lines.items()},
        "contributing_cases": {name: dict(line.cases) for name, line in lines.items()},
        "findings": {
            name: dataclasses.asdict(finding)
            for name, finding in paper_table.findings(lines).items()
        },
        "patients": patients.of_rows(cases),
        "wall_seconds": dict(metadata["wall_seconds"]),
        "peak_memory_bytes": metadata.get("peak_memory_bytes"),
        "notes": list(metadata.get("notes", ())),
        "fingerprints": {"rows": fingerprints.of_rows(cases), **metadata.get("fingerprints", {})},
        "cases": cases,
    }


def latest_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row a model, site, case and grid, the last that was reported, in the table's
    order.
    """
    latest = {
        (
            *paper_table.position(row["model"]),
            row["site"],
            row["case"],
            paper_table.GRIDS.index(row["grid"]),
        ): dict(row)
        for row in rows
    }
    return [latest[key] for key in sorted(latest)]


def read(folder: str | os.PathLike) -> RunReport:
    """Reads back what a run left in its folder.

    Raises:
      FileNotFoundError: naming the file, where there is no table yet.
    """
    folder = pathlib.Path(folder)
    file = folder / "table1.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{file} is not there; make it with `make table1`, or name another run's folder"
        )
    return dataclasses.replace(read_events(folder), document=atomic.read_json(file))


def read_events(folder: str | os.PathLike) -> RunReport:
    """Reads histories, the server's events and the sites' pictures of a run that may not have a
    table yet.
    """
    folder = pathlib.Path(folder)
    histories: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("sites/*/*/history.jsonl")):
        for event in events.EventLog(file).read():
            histories.setdefault(event.get("model", file.parent.name), []).append(event)
    histories = {name: histories[name] for name in sorted(histories, key=paper_table.position)}
    return RunReport(
        {},
        histories,
        list(events.EventLog(folder / "server" / "events.jsonl").read()),
        sorted(folder.glob("sites/*/figures/*.png")),
    )


def comparison(
    cases: Iterable[Any],
    masks: str | os.PathLike,
    site: str,
    *,
    count: int = 3,
    width_mm: float | None = 180.0,
) -> Figure:
    """Draws a site's own cases beside what every model made of them. The picture stays at the site,
    as its scans do.

    Args:
      cases: the site's prepared test cases (`number`, `image`, `label`, `target_mm`).
      masks: folder of predicted masks on the training grid, `case<number>.<model>.npy`.
      count: cases to draw, the first ones that have masks.
      width_mm: side of the square about the pancreas; None shows whole slices.
    Raises:
      ValueError: if no case has a mask.
    """
    slices = []
    for case in cases:
        files = {
            file.name.split(".")[1]: file
            for file in sorted(pathlib.Path(masks).glob(f"case{case.number:03d}.*.npy"))
        }
        if files and len(slices) < count:
            truth = np.asarray(case.label)
            predictions = {
                model: np.load(file, allow_pickle=False) for model, file in files.items()
            }
            captions = {
                model: _caption(metrics.dice(mask, truth)) for model, mask in predictions.items()
            }
            title = f"{site}, case {case.number}"
            slices.append(
                figures.slice_case(
                    title,
                    case.image,
                    truth,
                    predictions,
                    case.target_mm,
                    captions=captions,
                    width_mm=width_mm,
                )
            )
    if not slices:
        raise ValueError(
            f"{masks}: no predicted mask of site {site}'s test cases; let the site finish its evaluation first"
        )
    return figures.comparison(slices)


def stack() -> str:
    """Returns the installed versions that decide the numbers, e.g. "tensorflow 2.21.0, keras
    3.15.1, numpy 2.3.1"; loads none of them.
    """
    found = []
    for package in ("tensorflow", "keras", "tensorflow-addons", "numpy"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def departures(configuration: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (setting, here, in the paper's profile) of every setting that differs from the
    paper's profile.
    """
    found = []
    for name, expected in _paper_settings().items():
        if name in configuration and name not in _NO_DEPARTURE:
            value = configuration[name]
            here = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            if _comparable(here) != _comparable(expected):
                found.append((name, here, expected))
    return found


def csv_text(content: Mapping[str, Any]) -> str:
    """Returns the table as CSV: per row and column our per cent, the number of cases behind it, and
    the paper's per cent.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "model",
            *(
                f"{column}{kind}"
                for column in paper_table.COLUMNS
                for kind in ("", "_cases", "_paper")
            ),
        ]
    )
    for name, percent in content["rows"].items():
        cells: list[str] = []
        for column in paper_table.COLUMNS:
            paper = paper_table.PAPER_TABLE.get(name, {}).get(column)
            cells += [
                _number(percent[column], 3),
                str(content["contributing_cases"][name][column]),
                _number(paper, 1),
            ]
        writer.writerow([name, *cells])
    return stream.getvalue()


def markdown(content: Mapping[str, Any], *, pictures: Sequence[str] = ()) -> str:
    """Returns the whole report: the table, ours beside the paper's, and everything one needs to
    judge it.

    Args:
      content: the contents of `table1.json`.
      pictures: paths, relative to the report, of pictures to show beneath.
    """
    sections = [
        f"# {_title(content)}",
        _table_markdown(content),
        "## What the paper found, and this run",
        _findings_markdown(content),
        "## Patients",
        patients_table.markdown(content.get("patients") or patients.of_rows(content["cases"])),
        "## Departures from the paper's setting",
        _departures_markdown(content),
        "## How the numbers are made",
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


def several_markdown(contents: Sequence[Mapping[str, Any]]) -> str:
    """Returns mean and range over several runs as a table, and how many of them showed each
    finding.
    """
    summary = paper_table.several(contents)
    seeds = ", ".join(str(content["seed"]) for content in contents)
    lines = [
        f"Dice in per cent, mean [lowest, highest] of {len(contents)} runs (seeds {seeds}).",
        "",
        *_header(),
    ]
    for name, columns in summary.items():
        cells = [columns.get(column) for column in paper_table.COLUMNS]
        lines.append(
            _line(
                [
                    name,
                    *(
                        "–"
                        if c is None
                        else f"{c['mean']:.1f} [{c['lowest']:.1f}, {c['highest']:.1f}]"
                        for c in cells
                    ),
                ]
            )
        )
    lines.append("")
    for name in contents[0]["findings"] if contents else ():
        verdicts = [content["findings"][name]["holds"] for content in contents]
        lines.append(
            f"- {contents[0]['findings'][name]['claim']}: {verdicts.count(True)} of {len(verdicts)} runs"
        )
    return "\n".join(lines) + "\n"


DEFINITIONS = """\
- C1 pancreas, C2 pancreas and C2 tumour are means over the sites' test cases of the Dice of each case, on the training grid.
- Pancreas average is the mean over all test cases of both sites, so sites weigh by their numbers of cases; Average is the mean of \
the pancreas average and C2 tumour; the row Average is the mean of the five models above it.
- A class that is in neither the truth nor the prediction of a case does not count; one that is only in the prediction counts as 0.
- C1_FL_local and C2_FL_local are the sites' best by their own validation after local training. FL_global is the last aggregate, \
unselected, as in the paper; FL_best_global is the global model that the sites' validation cases score best, and is outside the mean.
- C1_FL_local_shared, where it is there: of some of C1's local models, which C1 lends, the one that the validation cases of all sites score \
best. C1's own cases cannot show what its model has unlearned of a class that they do not have. Outside the mean.
- A row that ends in _gated is of the same model with the healthy gate, outside the mean: a patient whose score is not above the gate's \
threshold counts as one in whom no tumour is marked.
- Every site scored the models on its own test cases; the table is computed from the rows they sent."""

PAPER_STATEMENT = """\
- The paper's bottom row is not the mean of its five rows: that mean is 78.3, 60.9, 40.7, 68.9, 54.8; printed is 78.3, 60.7, 38.3, \
68.7, 53.5. The row Average here is the true mean, and what stands in brackets is what is printed.
- Its other derived columns follow from its Dice columns with 84 test cases of C1 and 100 of C2, to within 0.1.
- Its §3 says that clients send gradients; by its §2.1 they send weights, and so they do here.
- Its Fig. 4 shows C1's cases, and the caption says that only the pancreas is labelled "in the Client 2 (C2) dataset"; it is C1's \
labels that hold the pancreas alone."""


def _title(content: Mapping[str, Any]) -> str:
    return f"Table 1, profile {content['profile']}, seed {content['seed']}"


def _table_markdown(content: Mapping[str, Any]) -> str:
    rows, counts = content["rows"], content["contributing_cases"]
    common = {
        column: max((counts[name][column] for name in rows), default=0)
        for column in paper_table.COLUMNS
    }
    spacing = " × ".join(f"{float(s):g}" for s in content["configuration"].get("spacing_mm", ()))
    grid = f" ({spacing} mm)" if spacing else ""
    lines = [
        f"Dice in per cent on the sites' test cases, on the training grid{grid}; in brackets the paper's.",
        "",
        *_header(),
    ]
    for name, percent in rows.items():
        cells = [_number(percent[column], 1) or "–" for column in paper_table.COLUMNS]
        for index, column in enumerate(paper_table.COLUMNS):
            if 0 < counts[name][column] < common[column]:
                cells[index] += f", n = {counts[name][column]}"
            if name in paper_table.PAPER_TABLE:
                cells[index] += f" ({paper_table.PAPER_TABLE[name][column]:.1f})"
        lines.append(_line([f"**{name}**" if name == paper_table.AVERAGE else name, *cells]))
    paper = paper_table.PAPER_TEST_CASES
    paper_counts = [paper["C1"], paper["C2"], paper["C2"], sum(paper.values())]
    cells = [
        f"{common[column]} ({number})"
        for column, number in zip(paper_table.COLUMNS, paper_counts, strict=False)
    ]
    lines.append(_line(["test cases", *cells, ""]))
    absent = [model for model in paper_table.MODELS if model not in rows]
    if absent:
        lines += ["", f"Not evaluated: {', '.join(absent)}. The row Average needs all five models."]
    return "\n".join(lines)


def _findings_markdown(content: Mapping[str, Any]) -> str:
    verdict = {True: "yes", False: "**no**", None: "not to be said, numbers are missing"}
    lines = ["| finding | holds | numbers |", "|---|---|---|"]
    for finding in content["findings"].values():
        numbers = ", ".join(
            f"{name} {_number(value, 1) or '–'}" for name, value in finding["numbers"].items()
        )
        lines.append(_line([finding["claim"], verdict[finding["holds"]], numbers]))
    marked = paper_table.false_tumours(content["cases"])
    if marked:
        parts = ", ".join(
            f"{name} {count} of {healthy}" for name, (count, healthy) in marked.items()
        )
        lines += ["", f"Cases without a tumour in which a model marks one: {parts}."]
    return "\n".join(lines)


def _departures_markdown(content: Mapping[str, Any]) -> str:
    found = departures(content["configuration"])
    lines = [f"- {note}" for note in content["notes"]]
    if lines:
        lines.append("")
    if not found:
        return "\n".join([*lines, "None: every setting is that of the paper's profile."])
    lines += ["| setting | here | paper |", "|---|---|---|"]
    lines += [
        _line([f"`{name}`", here, paper + (" †" if name in _NOT_IN_PAPER else "")])
        for name, here, paper in found
    ]
    if any(name in _NOT_IN_PAPER for name, _, _ in found):
        lines += ["", "† Not in the paper; from the first author's later public configuration."]
    return "\n".join(lines)


def _native_markdown(content: Mapping[str, Any]) -> str:
    native = paper_table.table(content["cases"], grid="native")
    if not native:
        return ""
    lines = [
        "The same on each scan's own grid, to which the masks are brought back:",
        "",
        *_header(),
    ]
    lines += [
        _line([name, *(_number(row.percent[column], 1) or "–" for column in paper_table.COLUMNS)])
        for name, row in native.items()
    ]
    return "\n".join(lines)


def _run_markdown(content: Mapping[str, Any]) -> str:
    lines = [f"- Seed {content['seed']}, {content['stack']}."]
    if content["wall_seconds"]:
        stages = ", ".join(
            f"{stage} {seconds:.0f} s" for stage, seconds in content["wall_seconds"].items()
        )
        lines.append(f"- Wall time {sum(content['wall_seconds'].values()) / 60:.1f} min: {stages}.")
    if content["peak_memory_bytes"]:
        lines.append(
            f"- Peak memory of all processes together {content['peak_memory_bytes'] / 2**30:.1f} GiB."
        )
    return "\n".join(lines)


def _caption(dice: Mapping[int, float | None]) -> str:
    return "   ".join(
        f"{letter} {_number(dice[value], 2) or '–'}" for letter, value in (("P", 1), ("T", 2))
    )


def _header() -> list[str]:
    return [
        _line(["Model", *(_HEADINGS[column] for column in paper_table.COLUMNS)]),
        "|---|" + "---:|" * len(paper_table.COLUMNS),
    ]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _paper_settings() -> dict[str, str]:
    lines = (line.strip() for line in _PAPER_FLAGS.read_text(encoding="utf-8").splitlines())
    return dict(line[2:].split("=", 1) for line in lines if line.startswith("--"))


def _comparable(text: str) -> tuple[float | str, ...]:
    """The parts of a setting, numbers as numbers: "1e-4" is "0.0001"."""
    parts: list[float | str] = []
    for part in text.split(","):
        try:
            parts.append(float(part))
        except ValueError:
            parts.append(part.lower())  # false is False
    return tuple(parts)


def _pictures(folder: pathlib.Path) -> list[str]:
    found = [*sorted(folder.glob("figures/*.png")), *sorted(folder.glob("sites/*/figures/*.png"))]
    return [file.relative_to(folder).as_posix() for file in found]


def _save(figure: Figure, path: pathlib.Path) -> None:
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary)
