"""The list of a site's cases: our own JSON, or the dataset.json of the Medical Segmentation Decathlon (MSD) as it is."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from runkit import atomic

_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclasses.dataclass(frozen=True)
class Case:
    """One scan. `case_id` names its folder in the case store; `label` is None for a scan that nobody has drawn."""

    case_id: str
    image: pathlib.Path
    label: pathlib.Path | None

    def __post_init__(self):
        if not _CASE_ID.match(self.case_id):
            raise ValueError(f"case_id {self.case_id!r}: use letters, digits, '.', '_' and '-' only, beginning with a letter or digit")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A site's cases.

    Attributes:
      site: name of the site, e.g. "C1".
      cases: all cases; none twice.
      description: free text.
      label_values: for label files with other values than 0, 1, 2: file value -> class. Every other value is background.
      excluded: ids of cases that are listed but not to be used.
    """

    site: str
    cases: tuple[Case, ...]
    description: str = ""
    label_values: Mapping[int, int] | None = None
    excluded: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.site:
            raise ValueError("site is empty; name the site")
        if not self.cases:
            raise ValueError("no case is listed; add the site's scans under `cases`")
        ids = [case.case_id for case in self.cases]
        twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            raise ValueError(f"case_id {', '.join(twice)} listed more than once; give each scan its own")
        unknown = sorted(set(self.excluded) - set(ids))
        if unknown:
            raise ValueError(f"excluded names {', '.join(unknown)}, which is no case here; correct or remove it")
        if self.label_values is not None and not set(self.label_values.values()) <= {0, 1, 2}:
            raise ValueError(f"label_values is {dict(self.label_values)}; expected file value -> class 0, 1 or 2")

    @property
    def included(self) -> tuple[Case, ...]:
        """The cases to use, those without a label included."""
        return tuple(case for case in self.cases if case.case_id not in self.excluded)


def read(path: str | os.PathLike, *, site: str | None = None) -> Manifest:
    """Reads a manifest.

    Args:
      path: our own JSON, `{"site", "description", "cases": [{"case_id", "image", "label"}]}` with optional `label_values`
        (`{"7": 1}`) and `excluded` (`["case_0007"]`), or an MSD dataset.json. Relative paths start at the file's folder.
      site: takes the place of the site's name in the file; an MSD file gives the dataset's name otherwise.
    Raises:
      ValueError: naming the file, if it is missing, no JSON, lacks a key, lists no case or one twice.
    """
    path = pathlib.Path(path)
    try:
        value = atomic.read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give the path of a manifest.json or dataset.json") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object with `site` and `cases`")
    try:
        if "cases" in value:
            return _own(value, path.parent, site)
        if "training" in value:
            return _msd(value, path.parent, site)
        raise ValueError("has neither `cases` (our manifest) nor `training` (an MSD dataset.json); list the scans under `cases`")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: str | os.PathLike, manifest: Manifest) -> None:
    """Writes our own JSON, with paths relative to its folder, so that folder and manifest can be moved together."""
    folder = pathlib.Path(path).resolve().parent

    def relative(file: pathlib.Path | None) -> str | None:
        return None if file is None else pathlib.Path(os.path.relpath(pathlib.Path(file).resolve(), folder)).as_posix()

    value: dict[str, Any] = {"site": manifest.site, "description": manifest.description}
    if manifest.label_values is not None:
        value["label_values"] = {str(k): v for k, v in manifest.label_values.items()}
    if manifest.excluded:
        value["excluded"] = list(manifest.excluded)
    value["cases"] = [{"case_id": c.case_id, "image": relative(c.image), "label": relative(c.label)} for c in manifest.cases]
    atomic.write_json(path, value)


def _own(value: dict[str, Any], folder: pathlib.Path, site: str | None) -> Manifest:
    cases = []
    for position, entry in enumerate(_list(value, "cases")):
        if not isinstance(entry, dict) or not isinstance(entry.get("case_id"), str) or not isinstance(entry.get("image"), str):
            raise ValueError(f"entry {position + 1} of `cases` is {entry!r}; expected an object with `case_id`, `image` and `label`")
        label = entry.get("label")
        if label is not None and not isinstance(label, str):
            raise ValueError(f"label of case {entry['case_id']} is {label!r}; expected a path, or null for a scan without label")
        cases.append(Case(entry["case_id"], folder / entry["image"], None if label is None else folder / label))
    name = site or value.get("site")
    if not isinstance(name, str):
        raise ValueError("has no `site`; name the site there")
    excluded = _list(value, "excluded") if "excluded" in value else []
    return Manifest(
        name, tuple(cases), str(value.get("description", "")), _label_values(value.get("label_values")), tuple(map(str, excluded))
    )


def _msd(value: dict[str, Any], folder: pathlib.Path, site: str | None) -> Manifest:
    cases = []
    for key in ("training", "test"):
        for entry in _list(value, key) if key in value else []:
            pair = entry if isinstance(entry, dict) else {"image": entry}  # scans without label are plain strings there
            image, label = pair.get("image"), pair.get("label")
            if not isinstance(image, str) or not isinstance(label, str | None):
                raise ValueError(f"entry {entry!r} of `{key}` is neither a path nor an object with `image` and `label`")
            name = pathlib.PurePosixPath(image).name
            if name.startswith("._"):  # macOS writes one beside each file of the archive; it holds no scan
                continue
            case_id = name.removesuffix(".gz").removesuffix(".nii")
            cases.append(Case(case_id, folder / image, None if label is None else folder / label))
    return Manifest(site or str(value.get("name") or "MSD"), tuple(cases), str(value.get("description", "")))


def _list(value: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(value[key], list):
        raise ValueError(f"`{key}` is {type(value[key]).__name__}; expected a list")
    return value[key]


def _label_values(value: Any) -> dict[int, int] | None:
    if value is None:
        return None
    try:
        return {int(k): int(v) for k, v in value.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f'label_values is {value!r}; expected file value -> class, e.g. {{"7": 1}}') from None
