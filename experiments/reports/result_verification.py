"""Verifies that a result follows from its own rows.

The table is computed again, and the files beside it are compared with the recorded digests.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.reports import table1_report
from experiments.results import fingerprints, patients, table1_document, table1_values
from runkit import atomic

_TOLERANCE = 1e-9  # per cent; other summation orders differ by less


@dataclasses.dataclass(frozen=True)
class Check:
    """One check. `holds` is None if the files it needs are missing, which is not a failure."""

    what: str
    holds: bool | None
    detail: str


def verify(folder: str | os.PathLike) -> list[Check]:
    """Returns the checks of a run's folder.

    Raises:
      FileNotFoundError: if it holds no `table1.json`.
    """
    folder = pathlib.Path(folder)
    content = table1_report.read(folder).document
    checks = [
        _table(content),
        _findings(content),
        _patients(content),
        *_files(folder, content),
        *_rows(folder, content),
    ]
    recorded = content.get("fingerprints")
    if not recorded:
        return [
            *checks,
            Check("fingerprints", None, "the table's release recorded none"),
        ]
    now = fingerprints.of_run(folder)
    for kind in ("models", "data"):
        for name, digest in recorded.get(kind, {}).items():
            found = now[kind].get(name)
            holds = None if found is None else found == digest
            detail = (
                "not here"
                if found is None
                else "the same bytes"
                if holds
                else f"{found[:16]}…, but the table was made from {digest[:16]}…"
            )
            checks.append(Check(f"{kind} {name}", holds, detail))
    return checks


def _table(content: Mapping[str, Any]) -> Check:
    lines = table1_values.table(content["cases"])
    wrong = [
        name for name in {*lines, *content["rows"]} if (name in lines) != (name in content["rows"])
    ]
    for name in set(lines) & set(content["rows"]):
        for column in table1_values.COLUMNS:
            ours, printed = lines[name].percent[column], content["rows"][name][column]
            if (ours is None) != (printed is None) or (
                ours is not None and abs(ours - printed) > _TOLERANCE
            ):
                wrong.append(f"{name} {column}: rows give {ours}, table has {printed}")
        if dict(lines[name].cases) != content["contributing_cases"][name]:
            wrong.append(f"{name}: numbers of cases")
    return Check(
        "table from its rows",
        not wrong,
        "; ".join(sorted(wrong)) or f"{len(lines)} lines from {len(content['cases'])} rows",
    )


def _findings(content: Mapping[str, Any]) -> Check:
    found = {
        name: finding.holds
        for name, finding in table1_values.findings(table1_values.table(content["cases"])).items()
    }
    printed = {name: finding["holds"] for name, finding in content["findings"].items()}
    wrong = [name for name in found if found[name] != printed.get(name)]
    return Check("findings from the table", not wrong, "; ".join(wrong) or f"{len(found)} findings")


def _patients(content: Mapping[str, Any]) -> Check:
    if "patients" not in content:
        return Check("patients from the rows", None, "the table's release did not measure them")
    found = patients.of_rows(content["cases"])
    wrong = [
        name
        for name in {*found, *content["patients"]}
        if not _alike(found.get(name), content["patients"].get(name))
    ]
    return Check(
        "patients from the rows", not wrong, "; ".join(sorted(wrong)) or f"{len(found)} models"
    )


def _alike(one: Any, other: Any) -> bool:
    """Returns whether two JSON values are equal up to the last digits of numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) <= _TOLERANCE * max(1.0, abs(one))
    return one == other


def _files(folder: pathlib.Path, content: Mapping[str, Any]) -> list[Check]:
    file = folder / "table1.csv"
    if not file.exists():
        return [Check("table1.csv", None, "not here")]
    with atomic.naming(file):
        same = file.read_text(encoding="utf-8") == table1_report.csv_text(content)
    return [
        Check(
            "table1.csv",
            same,
            "the same as the JSON"
            if same
            else "differs from the JSON; it was changed by hand or is from another run",
        )
    ]


def _rows(folder: pathlib.Path, content: Mapping[str, Any]) -> list[Check]:
    recorded = content.get("fingerprints", {}).get("rows")
    checks = []
    if recorded:
        same = fingerprints.of_rows(content["cases"]) == recorded
        checks.append(
            Check(
                "rows inside the table",
                same,
                "as recorded" if same else "changed after the table was made",
            )
        )
    files = [
        file
        for file in (folder / "server" / "rows.jsonl", folder / "rows_beyond.jsonl")
        if file.exists()
    ]
    if not files:
        return [*checks, Check("rows as the sites sent them", None, "not here")]
    sent = [row for file in files for row in table1_values.read_rows(file)]
    same = fingerprints.of_rows(table1_report.latest_rows(sent)) == fingerprints.of_rows(
        content["cases"]
    )
    return [
        *checks,
        Check(
            "rows as the sites sent them",
            same,
            "the table's rows" if same else "not the table's rows",
        ),
    ]


def runs_in(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the folders of finished runs at or below `folder`.

    Raises:
      FileNotFoundError: if there is none.
    """
    folder = pathlib.Path(folder)
    found = sorted(file.parent for file in folder.glob("**/table1.json"))
    if not found:
        raise FileNotFoundError(
            f"{folder}: no table1.json here or below; give the folder of a run or of a study"
        )
    return found


def study_check(folder: str | os.PathLike) -> Check | None:
    """Checks that a study's table holds its runs' rows; None if the folder is not a study's."""
    file = pathlib.Path(folder) / "study.json"
    if not file.exists():
        return None
    content = atomic.read_json(file)
    runs = content.get("runs") if isinstance(content, Mapping) else None
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise ValueError(
            f"{file}: `runs` is not a list of runs with `folder` and `fingerprints`; make the "
            "study's results again with experiments.study"
        )
    wrong = []
    for run in runs:
        table = pathlib.Path(folder) / run["folder"] / "table1.json"
        if table.exists() and (
            fingerprints.of_rows(table1_document.read(table)["cases"])
            != run["fingerprints"].get("rows")
        ):
            wrong.append(run["folder"])
    return Check("study from its runs", not wrong, "; ".join(wrong) or f"{len(runs)} runs")


def _is_run(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("folder"), str)
        and ".." not in pathlib.PurePath(value["folder"]).parts
        and not pathlib.PurePath(value["folder"]).is_absolute()
        and isinstance(value.get("fingerprints"), Mapping)
    )
