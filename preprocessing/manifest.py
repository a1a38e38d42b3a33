"""Reads and writes the list of a site's cases.

The list is our own JSON, or the unchanged dataset.json of the Medical Segmentation Decathlon (MSD)
or of nnU-Net.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from preprocessing import dataset_json, rules
from preprocessing.case_list import Case, CaseManifest, ListProblem
from preprocessing.dataset_json import Json
from preprocessing.rules import broken
from runkit import atomic


def read(
    path: str | os.PathLike, *, site: str | None = None, orientation: str | None = None
) -> CaseManifest:
    """Reads a manifest.

    Args:
      path: our own JSON, `{"site", "description", "cases": [{"case_id", "image", "label"}]}`, with
        optional `label_values` (`{"7": 1}`), `excluded` (`["case_0007"]`) and `declared_labels`
        (`{"pancreas": "complete", "tumour": "absent"}`), and for each case `series`, `label_turn`,
        `accept` and `orientation`; or the dataset.json of MSD or of nnU-Net. Paths are relative to
        the folder of the file.
      site: replaces the name of the site in the file, which for a dataset.json is the name of the
        dataset.
      orientation: orientation of every case that does not give its own.
    Raises:
      IntegrityError: naming the file and a rule of group M, if the file is missing, is not JSON,
          lacks a key, lists no case, or lists one twice.
    """
    path = pathlib.Path(path)
    try:
        value = atomic.read_json(path)
    except OSError as error:
        raise broken(rules.MANIFEST, path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        problem = str(error).removeprefix(f"{path}: ")
        raise broken(rules.MANIFEST, path, problem, "correct the JSON") from error
    if not isinstance(value, dict):
        problem = f"is a JSON {type(value).__name__}, not a JSON object with `site` and `cases`"
        raise broken(rules.MANIFEST, path, problem)
    try:
        found = _of_value(value, path.parent, site)
        if orientation is None:
            return found
        cases = (
            dataclasses.replace(case, orientation=case.orientation or orientation)
            for case in found.cases
        )
        return dataclasses.replace(found, cases=tuple(cases))
    except ListProblem as error:
        raise broken(error.rule, path, error.problem, error.fix) from error


def write(path: str | os.PathLike, manifest: CaseManifest) -> None:
    """Writes our own JSON, see `as_json`."""
    atomic.write_json(path, as_json(path, manifest))


def as_json(path: str | os.PathLike, manifest: CaseManifest) -> Json:
    """Returns what `write` writes: our own JSON, with paths relative to the folder of `path`.

    Scans and manifest can therefore be moved together. A scan that is a link, as in a DataLad
    dataset, is listed by its own name, not by its target's.
    """
    folder = pathlib.Path(path).resolve().parent

    def relative(file: pathlib.Path | None) -> str | None:
        if file is None:
            return None
        file = pathlib.Path(file).absolute()
        place = file.resolve() if file.name == ".." else file.parent.resolve() / file.name
        return pathlib.Path(os.path.relpath(place, folder)).as_posix()

    value: Json = {"site": manifest.site, "description": manifest.description}
    if manifest.label_values is not None:
        value["label_values"] = {str(k): v for k, v in manifest.label_values.items()}
    if manifest.excluded:
        value["excluded"] = list(manifest.excluded)
    if manifest.declared is not None:
        value["declared_labels"] = dict(manifest.declared)
    value["cases"] = []
    for case in manifest.cases:
        entry: Json = {
            "case_id": case.case_id,
            "image": relative(case.image),
            "label": relative(case.label),
        }
        optional = {
            "series": case.series,
            "label_turn": case.label_turn,
            "accept": list(case.accept),
            "orientation": case.orientation,
        }
        value["cases"].append(entry | {name: given for name, given in optional.items() if given})
    return value


def _own(value: Json, folder: pathlib.Path, site: str | None) -> CaseManifest:
    cases = [
        _case(position, entry, folder)
        for position, entry in enumerate(dataset_json.list_of(value, "cases"), start=1)
    ]
    name = site or value.get("site")
    if not isinstance(name, str):
        raise ListProblem(rules.MANIFEST_KEYS, "has no `site`", "name the site there")
    excluded = dataset_json.list_of(value, "excluded") if "excluded" in value else []
    return CaseManifest(
        name,
        tuple(cases),
        str(value.get("description", "")),
        _label_values(value.get("label_values")),
        tuple(map(str, excluded)),
        value.get("declared_labels"),
    )


# The key that identifies each format, and its reader, in the order in which they are tried.
_FORMATS = {
    "cases": _own,
    "training": dataset_json.of_msd,
    "file_ending": dataset_json.of_nnunet,
}


def _of_value(value: Json, folder: pathlib.Path, site: str | None) -> CaseManifest:
    for key, reader in _FORMATS.items():
        if key in value:
            return reader(value, folder, site)
    problem = (
        "has neither `cases` (our manifest) nor `training` (an MSD dataset.json) nor `file_ending` "
        "(one of nnU-Net)"
    )
    raise ListProblem(rules.MANIFEST_KEYS, problem, "list the scans under `cases`")


def _case(position: int, entry: Any, folder: pathlib.Path) -> Case:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("case_id"), str)
        or not dataset_json.is_path(entry.get("image"))
    ):
        problem = f"entry {position} of `cases` is {entry!r}"
        fix = "expected an object with `case_id`, `image` and `label`"
        raise ListProblem(rules.MANIFEST_KEYS, problem, fix)
    label = entry.get("label")
    if label is not None and not dataset_json.is_path(label):
        problem = f"label of case {entry['case_id']} is {label!r}"
        fix = "expected a path, or null for a scan without a label"
        raise ListProblem(rules.MANIFEST_KEYS, problem, fix)
    return Case(
        entry["case_id"],
        folder / entry["image"],
        None if label is None else folder / label,
        _text(entry, "series"),
        _text(entry, "label_turn"),
        tuple(map(str, dataset_json.list_of(entry, "accept"))) if "accept" in entry else (),
        _text(entry, "orientation"),
    )


def _text(entry: Json, key: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        problem = f"`{key}` of case {entry['case_id']} is {value!r}"
        raise ListProblem(rules.MANIFEST_KEYS, problem, "expected a text")
    return value


def _label_values(value: Any) -> dict[int, int] | None:
    if value is None:
        return None
    try:
        return {int(k): int(v) for k, v in value.items()}
    except (AttributeError, TypeError, ValueError):
        problem = f"label_values is {value!r}"
        fix = 'expected file value -> class, e.g. {"7": 1}'
        raise ListProblem(rules.MANIFEST_REFERENCE, problem, fix) from None
