"""The list of a site's cases: our own JSON, or the dataset.json of the Medical Segmentation
Decathlon (MSD) as it is.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from preprocessing import declared_labels, geometry, names
from preprocessing.checks import rules
from preprocessing.checks.rules import Rule, broken
from runkit import atomic, printable
from runkit.classes import FOREGROUND

_CLASS_NAMES = {
    **{value: (name,) for value, name in FOREGROUND.items()},
    2: (
        *(
            f"{prefix}{name}"
            for prefix in ("", "pancreas ", "pancreatic ")
            for name in ("tumour", "tumor", "cancer", "lesion")
        ),
        *("pdac", "pdac lesion"),
    ),
}
_TUMOUR = re.compile(r"tumou?r|cancer|lesion|carcinoma|pdac", re.IGNORECASE)
_TURN = re.compile(r"(?=.*x)(?=.*y)(?=.*z)([+-][xyz]){3}\Z")


class _Problem(ValueError):
    """What is wrong in a manifest, before its file is known."""

    def __init__(self, rule: Rule, problem: str, fix: str | None = None):
        problem = printable.text(problem, limit=1000)  # it may quote a manifest that others wrote
        super().__init__(f"{problem} [{rule.id} {rule.name}]; {fix or rule.fix}")
        self.rule, self.problem, self.fix = rule, problem, fix


@dataclasses.dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
      case_id: names its folder in the case store.
      image: a NIfTI file; or a DICOM series: its folder, a zip of it, or one multi-frame file.
      label: a NIfTI file; None for a scan that nobody has drawn.
      series: which DICOM series, where there are several: see `dicom.read_series`.
      label_turn: how the label's voxels are turned onto the image's, whatever the label's header
        says, e.g. "+x-y+z"; None: as the headers say.
      accept: ids of rules that this case may break, since somebody has looked.
      orientation: where the array's axes run in those of its NIfTI files whose header does not say
          it, e.g. "LPS"; see `nifti.read_ct`.
    """

    case_id: str
    image: pathlib.Path
    label: pathlib.Path | None
    series: str | None = None
    label_turn: str | None = None
    accept: tuple[str, ...] = ()
    orientation: str | None = None

    def __post_init__(self):
        if not names.CASE_ID.match(self.case_id):
            raise _Problem(
                rules.CASE_ID,
                f"case_id {self.case_id!r}",
                "use letters, digits, '.', '_' and '-' only, letter or digit first",
            )
        if self.label_turn is not None and not _TURN.match(self.label_turn):
            problem = f"label_turn of case {self.case_id} is {self.label_turn!r}"
            raise _Problem(
                rules.MANIFEST_REFERENCE,
                problem,
                'name each axis once with its sign, e.g. "+x-y+z"',
            )
        if self.orientation is not None:
            try:
                geometry.require_axes(self.orientation)
            except ValueError as error:
                raise _Problem(
                    rules.MANIFEST_REFERENCE, f"case {self.case_id}: {error}", "correct it"
                ) from error
        unknown = [i for i in self.accept if i not in rules.BY_ID or not rules.BY_ID[i].acceptable]
        if unknown:
            possible = ", ".join(rule.id for rule in rules.RULES if rule.acceptable)
            problem = f"case {self.case_id} accepts {', '.join(unknown)}"
            raise _Problem(
                rules.MANIFEST_REFERENCE, problem, f"the rules that can be accepted are {possible}"
            )


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A site's cases.

    Attributes:
      site: name of the site, e.g. "C1".
      cases: all cases; none twice.
      description: free text.
      label_values: for label files with other values than 0, 1, 2: file value -> class. Every other
          value is background.
      excluded: ids of cases that are listed but not to be used.
      declared: what the site says about each class of its labels, see `declared_labels`; None where
          it says nothing.
    """

    site: str
    cases: tuple[Case, ...]
    description: str = ""
    label_values: Mapping[int, int] | None = None
    excluded: tuple[str, ...] = ()
    declared: Mapping[str, str] | None = None

    def __post_init__(self):
        if not self.site:
            raise _Problem(rules.MANIFEST_KEYS, "site is empty", "name the site")
        if not self.cases:
            raise _Problem(
                rules.MANIFEST_KEYS, "no case is listed", "add the site's scans under `cases`"
            )
        for what, listed in (
            ("case_id", [case.case_id for case in self.cases]),
            # one folder may hold the series of several cases
            ("image", [str(case.image) + (case.series or "") for case in self.cases]),
            ("label", [str(case.label) for case in self.cases if case.label is not None]),
        ):
            twice = [name for name, count in Counter(listed).items() if count > 1]
            if twice:
                raise _Problem(
                    rules.CASE_TWICE, f"{what} {', '.join(sorted(twice))} listed more than once"
                )
        unknown = sorted(set(self.excluded) - {case.case_id for case in self.cases})
        if unknown:
            raise _Problem(
                rules.MANIFEST_REFERENCE,
                f"excluded names {', '.join(unknown)}, which is no case here",
            )
        if self.label_values is not None and not set(self.label_values.values()) <= {0, 1, 2}:
            problem = f"label_values is {dict(self.label_values)}"
            raise _Problem(
                rules.MANIFEST_REFERENCE, problem, "expected file value -> class 0, 1 or 2"
            )
        if self.declared is not None:
            try:
                object.__setattr__(self, "declared", declared_labels.check(self.declared))
            except ValueError as error:
                raise _Problem(rules.MANIFEST_REFERENCE, str(error), "correct it") from error

    @property
    def included(self) -> tuple[Case, ...]:
        """The cases to use, those without a label included."""
        return tuple(case for case in self.cases if case.case_id not in self.excluded)

    @property
    def files(self) -> list[pathlib.Path]:
        """Images and labels of all cases, the excluded ones as well."""
        return [
            path for case in self.cases for path in (case.image, case.label) if path is not None
        ]


def read(
    path: str | os.PathLike, *, site: str | None = None, orientation: str | None = None
) -> Manifest:
    """Reads a manifest.

    Args:
      path: our own JSON, `{"site", "description", "cases": [{"case_id", "image", "label"}]}` with
        optional `label_values` (`{"7": 1}`), `excluded` (`["case_0007"]`) and `declared_labels`
        (`{"pancreas": "complete", "tumour": "absent"}`), and for a case `series`, `label_turn`,
        `accept` and `orientation`; or the dataset.json of MSD or of nnU-Net. Relative paths start
        at the file's folder.
      site: takes the place of the site's name in the file; a dataset.json gives the dataset's name
          otherwise.
      orientation: of every case that does not give its own.
    Raises:
      IntegrityError: naming the file and a rule of group M, if it is missing, no JSON, lacks a key,
          lists no case or one twice.
    """
    path = pathlib.Path(path)
    try:
        value = atomic.read_json(path)
    except OSError as error:
        raise broken(rules.MANIFEST, path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise broken(
            rules.MANIFEST, path, str(error).removeprefix(f"{path}: "), "correct the JSON"
        ) from error
    if not isinstance(value, dict):
        raise broken(
            rules.MANIFEST,
            path,
            f"is a JSON {type(value).__name__}, not a JSON object with `site` and `cases`",
        )
    try:
        found = _of_value(value, path.parent, site)
        if orientation is None:
            return found
        cases = (
            dataclasses.replace(case, orientation=case.orientation or orientation)
            for case in found.cases
        )
        return dataclasses.replace(found, cases=tuple(cases))
    except _Problem as error:
        raise broken(error.rule, path, error.problem, error.fix) from error


def _of_value(value: dict[str, Any], folder: pathlib.Path, site: str | None) -> Manifest:
    if "cases" in value:
        return _own(value, folder, site)
    if "training" in value:
        return _msd(value, folder, site)
    if "file_ending" in value:
        return _nnunet(value, folder, site)
    problem = "has neither `cases` (our manifest) nor `training` (an MSD dataset.json) nor `file_ending` (one of nnU-Net)"
    raise _Problem(rules.MANIFEST_KEYS, problem, "list the scans under `cases`")


def write(path: str | os.PathLike, manifest: Manifest) -> None:
    """Writes our own JSON, with paths relative to its folder, so that folder and manifest can be
    moved together.

    A scan that is a link, as in a DataLad dataset, stands there by its own name and not by its
    target's.
    """
    folder = pathlib.Path(path).resolve().parent

    def relative(file: pathlib.Path | None) -> str | None:
        if file is None:
            return None
        file = pathlib.Path(file).absolute()
        place = file.resolve() if file.name == ".." else file.parent.resolve() / file.name
        return pathlib.Path(os.path.relpath(place, folder)).as_posix()

    value: dict[str, Any] = {"site": manifest.site, "description": manifest.description}
    if manifest.label_values is not None:
        value["label_values"] = {str(k): v for k, v in manifest.label_values.items()}
    if manifest.excluded:
        value["excluded"] = list(manifest.excluded)
    if manifest.declared is not None:
        value["declared_labels"] = dict(manifest.declared)
    value["cases"] = []
    for case in manifest.cases:
        entry: dict[str, Any] = {
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
    atomic.write_json(path, value)


def _own(value: dict[str, Any], folder: pathlib.Path, site: str | None) -> Manifest:
    cases = []
    for position, entry in enumerate(_list(value, "cases")):
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("case_id"), str)
            or not _is_path(entry.get("image"))
        ):
            problem = f"entry {position + 1} of `cases` is {entry!r}"
            raise _Problem(
                rules.MANIFEST_KEYS,
                problem,
                "expected an object with `case_id`, `image` and `label`",
            )
        label = entry.get("label")
        if label is not None and not _is_path(label):
            problem = f"label of case {entry['case_id']} is {label!r}"
            raise _Problem(
                rules.MANIFEST_KEYS, problem, "expected a path, or null for a scan without label"
            )
        cases.append(
            Case(
                entry["case_id"],
                folder / entry["image"],
                None if label is None else folder / label,
                _text(entry, "series"),
                _text(entry, "label_turn"),
                tuple(map(str, _list(entry, "accept"))) if "accept" in entry else (),
                _text(entry, "orientation"),
            )
        )
    name = site or value.get("site")
    if not isinstance(name, str):
        raise _Problem(rules.MANIFEST_KEYS, "has no `site`", "name the site there")
    excluded = _list(value, "excluded") if "excluded" in value else []
    return Manifest(
        name,
        tuple(cases),
        str(value.get("description", "")),
        _label_values(value.get("label_values")),
        tuple(map(str, excluded)),
        value.get("declared_labels"),
    )


def _msd(value: dict[str, Any], folder: pathlib.Path, site: str | None) -> Manifest:
    _require_pancreas(value.get("labels"))
    pairs = []
    for key in ("training", "test"):
        for entry in _list(value, key) if key in value else []:
            # scans without label are plain strings there; a training entry without one is a
            # misspelt key
            pair = (
                {"image": entry, "label": None}
                if key == "test" and isinstance(entry, str)
                else entry
            )
            image, label = (
                (pair.get("image"), pair.get("label")) if isinstance(pair, dict) else (None, None)
            )
            if not _is_path(image) or not (_is_path(label) or (key == "test" and label is None)):
                problem = f"entry {entry!r} of `{key}` is neither a path nor an object with `image` and `label`"
                raise _Problem(rules.MANIFEST_KEYS, problem)
            if pathlib.PurePosixPath(image).name.startswith(
                "._"
            ):  # macOS writes one beside each file of the archive; it holds no scan
                continue
            pairs.append(
                (names.stem(image), folder / image, None if label is None else folder / label)
            )
    ids = names.case_ids(name for name, _, _ in pairs)
    cases = tuple(Case(ids[name], image, label) for name, image, label in pairs)
    # The decathlon's pancreas task names both classes and draws both.
    drawn = _drawn(value.get("labels"))
    return Manifest(
        site or str(value.get("name") or "MSD"),
        cases,
        str(value.get("description", "")),
        declared=drawn,
    )


def _drawn(labels: Any) -> dict[str, str] | None:
    """Returns the declaration of a dataset.json of MSD: both classes are drawn where it names a
    pancreas and a tumour, else None.
    """
    if not isinstance(labels, dict):
        return None
    named = {str(name).lower() for name in labels.values()} | {str(name).lower() for name in labels}
    both = all(named & set(known) for known in _CLASS_NAMES.values())
    return dict.fromkeys(declared_labels.NAMES.values(), declared_labels.COMPLETE) if both else None


def _nnunet(value: dict[str, Any], folder: pathlib.Path, site: str | None) -> Manifest:
    """nnU-Net's raw data: imagesTr/<case>_0000<ending>, labelsTr/<case><ending>, imagesTs without
    labels; or `dataset`, which lists them.
    """
    ending = value["file_ending"]
    if not isinstance(ending, str) or ending.lower() not in (".nii", ".nii.gz"):
        raise _Problem(
            rules.MANIFEST_KEYS, f"file_ending is {ending!r}", "convert the dataset to .nii.gz"
        )
    values = _nnunet_values(value.get("labels"))
    pairs: dict[str, tuple[pathlib.Path, pathlib.Path | None]] = {}
    try:
        if "dataset" in value:
            for name, entry in value["dataset"].items():
                pairs[str(name)] = (
                    folder / entry["images"][0],
                    folder / entry["label"] if "label" in entry else None,
                )
        else:
            for part in ("Tr", "Ts"):
                images, labels = folder / f"images{part}", folder / f"labels{part}"
                if part == "Ts" and not images.is_dir():
                    continue
                drawn = names.by_stem(names.nifti_files(labels)) if labels.is_dir() else {}
                first = (
                    path for path in names.nifti_files(images) if names.stem(path).endswith("_0000")
                )
                found = {
                    name: (path, drawn.get(name))
                    for name, path in names.by_stem(first, without="_0000").items()
                }
                if part == "Tr" and value.get("numTraining", len(found)) != len(found):
                    raise ValueError(
                        f"{images}: holds {len(found)} files <case>_0000{ending}, numTraining is {value['numTraining']}"
                    )
                pairs |= found
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        problem = f"`dataset` is not case -> images and label ({type(error).__name__}: {error})"
        raise _Problem(rules.MANIFEST_KEYS, problem) from error
    except ValueError as error:
        raise _Problem(
            rules.MANIFEST_KEYS, str(error), "restore the folders of the dataset"
        ) from error
    ids = names.case_ids(pairs)
    cases = tuple(Case(ids[name], image, label) for name, (image, label) in pairs.items())
    name = site or str(value.get("name") or folder.resolve().name or "nnU-Net")
    return Manifest(name, cases, str(value.get("description", "")), values)


def _nnunet_values(labels: Any) -> dict[int, int] | None:
    """Returns which value of nnU-Net's labels, name -> value or, for regions, values, is which
    class; None where they are our own.

    Raises:
      _Problem: unless there are a pancreas and at most one tumour, under names that leave no doubt.
    """
    fix = "list the scans with experiments.list_cases and write `label_values` into the manifest"
    if not isinstance(labels, dict):
        raise _Problem(rules.MANIFEST_KEYS, f"`labels` is {labels!r}", "expected name -> value")
    found: dict[int, int] = {}
    for (
        class_,
        known,
    ) in _CLASS_NAMES.items():  # tumour last: where regions overlap it is the smaller one
        regions = [
            value
            for name, value in labels.items()
            if re.sub(r"[\s_-]+", " ", str(name)).strip().lower() in known
        ]
        if len(regions) > 1 or (class_ == 1 and not regions):
            raise _Problem(
                rules.MANIFEST_REFERENCE,
                f"labels {', '.join(map(str, labels))} name {len(regions)} as class {class_}",
                fix,
            )
        own = regions[0] if regions and isinstance(regions[0], list) else regions
        for value in own:
            if not isinstance(value, int) or isinstance(value, bool):
                raise _Problem(
                    rules.MANIFEST_KEYS,
                    f"`labels` has the value {value!r}",
                    "expected whole numbers",
                )
            found[value] = class_
    others = [
        str(name) for name in labels if "pancrea" in str(name).lower() or _TUMOUR.search(str(name))
    ]
    unclear = [
        name
        for name in others
        if not any(
            re.sub(r"[\s_-]+", " ", name).strip().lower() in known
            for known in _CLASS_NAMES.values()
        )
    ]
    if unclear:
        raise _Problem(
            rules.MANIFEST_REFERENCE,
            f"it is unclear which class the label {', '.join(unclear)} is",
            fix,
        )
    values = {
        v for value in labels.values() for v in (value if isinstance(value, list) else [value])
    } - {0}
    return None if found == {v: v for v in values} else found


def _require_pancreas(labels: Any) -> None:
    """Refuses the dataset.json of another organ: its 1 and 2 would be taken for pancreas and
    tumour.
    """
    if not isinstance(labels, dict):
        return
    # {"1": "pancreas"} at the decathlon, {"pancreas": 1} at nnU-Net
    name = labels.get("1", next((name for name, number in labels.items() if number == 1), None))
    if name is not None and "pancrea" not in str(name).lower():
        raise _Problem(
            rules.MANIFEST_REFERENCE,
            f"label 1 is {name!r} there, not pancreas",
            "give the dataset.json of a pancreas task",
        )


def _list(value: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(value[key], list):
        raise _Problem(
            rules.MANIFEST_KEYS, f"`{key}` is {type(value[key]).__name__}", "expected a list"
        )
    return value[key]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise _Problem(
            rules.MANIFEST_KEYS,
            f"`{key}` of case {entry['case_id']} is {value!r}",
            "expected a text",
        )
    return value


def _label_values(value: Any) -> dict[int, int] | None:
    if value is None:
        return None
    try:
        return {int(k): int(v) for k, v in value.items()}
    except (AttributeError, TypeError, ValueError):
        problem = f"label_values is {value!r}"
        raise _Problem(
            rules.MANIFEST_REFERENCE, problem, 'expected file value -> class, e.g. {"7": 1}'
        ) from None
