"""The list of a site's cases: our manifest.json, or a Medical Segmentation Decathlon dataset.json as it is."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from runkit import atomic


@dataclasses.dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
      case_id: unique at the site; names the case in the site's own folders, never leaves it.
      image, label: NIfTI files; label is None for a scan without one.
    """

    case_id: str
    image: pathlib.Path
    label: pathlib.Path | None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A site's cases.

    Attributes:
      site: e.g. "C1".
      cases: in the order of the file.
      description: free text.
      label_values: file value -> label where the label files are organ maps, e.g. {7: 1}; None where they hold 0, 1, 2.
    """

    site: str
    cases: tuple[Case, ...]
    description: str = ""
    label_values: dict[int, int] | None = None


def read(path: str | os.PathLike) -> Manifest:
    """Reads a manifest or a Decathlon dataset.json; paths in it are relative to its own folder.

    Raises:
      ValueError: naming the file and the entry, if there is no case, an entry is incomplete, or a case is named twice.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such manifest; write one (README, Own data) or correct the path")
    document = atomic.read_json(path)
    if not isinstance(document, dict) or not ({"cases", "training"} & document.keys()):
        raise ValueError(f"{path}: has neither `cases` (a manifest) nor `training` (a Decathlon dataset.json)")
    decathlon = "cases" not in document
    entries = _decathlon_entries(path, document) if decathlon else document["cases"]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: lists no case; add entries with `case_id`, `image` and `label` to `cases`")
    cases = tuple(_case(path, number, entry) for number, entry in enumerate(entries))
    seen: set[str] = set()
    for case in cases:
        if case.case_id in seen:
            raise ValueError(f"{path}: case {case.case_id!r} is listed twice; give each case one entry of its own")
        seen.add(case.case_id)
    values = document.get("label_values")
    site = document.get("site") or (document.get("name") if decathlon else None)
    if not isinstance(site, str):
        raise ValueError(f'{path}: does not say which `site` it lists; add "site": "C1"')
    return Manifest(
        site=site,
        cases=cases,
        description=str(document.get("description", "")),
        label_values=None if values is None else {int(value): int(label) for value, label in values.items()},
    )


def write(path: str | os.PathLike, manifest: Manifest) -> None:
    """Writes manifest.json atomically, with paths relative to its folder where the files lie below it."""
    folder = pathlib.Path(path).parent.resolve()

    def shown(file: pathlib.Path | None) -> str | None:
        if file is None:
            return None
        file = pathlib.Path(file).resolve()
        return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)

    document: dict[str, Any] = {
        "site": manifest.site,
        "description": manifest.description,
        "labels": {"0": "background", "1": "pancreas", "2": "tumour"},
    }
    if manifest.label_values is not None:
        document["label_values"] = {str(value): label for value, label in manifest.label_values.items()}
    document["cases"] = [{"case_id": case.case_id, "image": shown(case.image), "label": shown(case.label)} for case in manifest.cases]
    atomic.write_json(path, document)


def _decathlon_entries(path: pathlib.Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the labelled cases; the archive's test scans are plain strings and have no label, so they are left out."""
    entries = []
    for entry in document["training"]:
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise ValueError(f"{path}: entry {entry!r} of `training` has no `image` and `label`")
        name = pathlib.PurePosixPath(entry["image"]).name
        if not name.startswith("._"):  # macOS leaves such files in the archives
            entries.append({**entry, "case_id": name.removesuffix(".gz").removesuffix(".nii")})
    return entries


def _case(path: pathlib.Path, number: int, entry: Any) -> Case:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not isinstance(entry.get("case_id"), str):
        raise ValueError(f"{path}: case {number + 1} is {entry!r}; expected `case_id` and `image` as text")
    if not entry["case_id"] or entry["case_id"].startswith(".") or set(entry["case_id"]) & set('/\\:*?"<>|'):
        raise ValueError(f"{path}: case_id {entry['case_id']!r} cannot name a folder; use letters, digits, - and _")
    label = entry.get("label")
    return Case(entry["case_id"], path.parent / entry["image"], None if label is None else path.parent / label)
