"""Reads the dataset.json of the Medical Segmentation Decathlon (MSD) and of nnU-Net."""

from __future__ import annotations

import pathlib
import re
from typing import Any, NoReturn

from preprocessing import declared_labels, names, rules
from preprocessing.case_list import Case, CaseManifest, ListProblem
from runkit.classes import CLASSES, FOREGROUND

Json = dict[str, Any]  # an object of a JSON file, whose values are still to be checked

_FIRST_CHANNEL = "_0000"
_TUMOURS = ("tumour", "tumor", "cancer", "lesion")
# Names of each class, in lower case. The tumour comes last: where nnU-Net's regions overlap, it is
# the smaller one.
_CLASS_NAMES = {
    **{value: (name,) for value, name in FOREGROUND.items()},
    2: (
        *(prefix + name for prefix in ("", "pancreas ", "pancreatic ") for name in _TUMOURS),
        "pdac",
        "pdac lesion",
    ),
}
_TUMOUR = re.compile(r"tumou?r|cancer|lesion|carcinoma|pdac", re.IGNORECASE)
# Further words for a tumour, which do not make a label of another value doubtful.
_MASS = re.compile(r"\bmass(es)?\b|neoplas|malignan|cyst|ipmn|\bp?nets?\b", re.IGNORECASE)


def of_msd(value: Json, folder: pathlib.Path, site: str | None) -> CaseManifest:
    """Returns the cases of an MSD dataset.json.

    Args:
      value: content of the file.
      folder: folder of the file, to which its paths are relative.
      site: name of the site; the dataset's own name by default.
    Raises:
      ListProblem: if an entry is malformed or the labels are not of a pancreas.
    """
    _require_pancreas(value.get("labels"))
    pairs: list[tuple[str, pathlib.Path, pathlib.Path | None]] = []
    for key in ("training", "test"):
        for entry in list_of(value, key) if key in value else []:
            # Test scans without a label are plain strings; in `training`, that is a misspelt key.
            pair = {"image": entry} if key == "test" and isinstance(entry, str) else entry
            pair = pair if isinstance(pair, dict) else {}
            image, label = pair.get("image"), pair.get("label")
            if not is_path(image) or not (is_path(label) or (key == "test" and label is None)):
                problem = (
                    f"entry {entry!r} of `{key}` is neither a path nor an object with `image` and "
                    "`label`"
                )
                raise ListProblem(rules.MANIFEST_KEYS, problem)
            # macOS writes such a companion file beside each file of an archive; it is not a scan
            if pathlib.PurePosixPath(str(image)).name.startswith("._"):
                continue
            pairs.append(
                (names.stem(str(image)), folder / str(image), folder / label if label else None)
            )
    ids = names.case_ids(name for name, _, _ in pairs)
    return CaseManifest(
        site or str(value.get("name") or "MSD"),
        tuple(Case(ids[name], image, label) for name, image, label in pairs),
        str(value.get("description", "")),
        declared=_drawn(value.get("labels")),
    )


def of_nnunet(value: Json, folder: pathlib.Path, site: str | None) -> CaseManifest:
    """Returns the cases of an nnU-Net dataset.json.

    They are listed under `dataset`, or lie in imagesTr/<case>_0000<ending>,
    labelsTr/<case><ending> and imagesTs, whose scans have no labels. Args, raises: as `of_msd`.
    """
    ending = value["file_ending"]
    if not isinstance(ending, str) or ending.lower() not in (".nii", ".nii.gz"):
        problem, fix = f"file_ending is {ending!r}", "convert the dataset to .nii.gz"
        raise ListProblem(rules.MANIFEST_KEYS, problem, fix)
    values = _label_values(value.get("labels"))
    try:
        pairs = _listed(value, folder) if "dataset" in value else _in_folders(value, folder)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        problem = f"`dataset` is not case -> images and label ({type(error).__name__}: {error})"
        raise ListProblem(rules.MANIFEST_KEYS, problem) from error
    except ValueError as error:
        fix = "restore the folders of the dataset"
        raise ListProblem(rules.MANIFEST_KEYS, str(error), fix) from error
    ids = names.case_ids(pairs)
    return CaseManifest(
        site or str(value.get("name") or folder.resolve().name or "nnU-Net"),
        tuple(Case(ids[name], image, label) for name, (image, label) in pairs.items()),
        str(value.get("description", "")),
        values,
    )


def list_of(value: Json, key: str) -> list[Any]:
    """Returns the list under a key. Raises ListProblem if it is not a list."""
    if not isinstance(value[key], list):
        problem = f"`{key}` is {type(value[key]).__name__}"
        raise ListProblem(rules.MANIFEST_KEYS, problem, "expected a list")
    return value[key]


def is_path(value: object) -> bool:
    """Returns whether a value of a JSON file can be a path."""
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _drawn(labels: object) -> dict[str, str] | None:
    """Returns the declaration of an MSD dataset.json.

    If it names a pancreas and a tumour, both are drawn wherever they are; otherwise None.
    """
    if not isinstance(labels, dict):
        return None
    named = {str(name).lower() for name in labels.values()} | {str(name).lower() for name in labels}
    both = all(named & set(known) for known in _CLASS_NAMES.values())
    return dict.fromkeys(declared_labels.NAMES.values(), declared_labels.COMPLETE) if both else None


Pairs = dict[str, tuple[pathlib.Path, pathlib.Path | None]]  # case -> image and label


def _listed(value: Json, folder: pathlib.Path) -> Pairs:
    return {
        str(name): (
            folder / entry["images"][0],
            folder / entry["label"] if "label" in entry else None,
        )
        for name, entry in value["dataset"].items()
    }


def _in_folders(value: Json, folder: pathlib.Path) -> Pairs:
    pairs: Pairs = {}
    for part in ("Tr", "Ts"):
        images, labels = folder / f"images{part}", folder / f"labels{part}"
        if part == "Ts" and not images.is_dir():
            continue
        drawn = names.by_stem(names.nifti_files(labels)) if labels.is_dir() else {}
        first = (
            path for path in names.nifti_files(images) if names.stem(path).endswith(_FIRST_CHANNEL)
        )
        found = names.by_stem(first, without=_FIRST_CHANNEL)
        if part == "Tr" and value.get("numTraining", len(found)) != len(found):
            raise ValueError(
                f"{images}: holds {len(found)} files <case>{_FIRST_CHANNEL}{value['file_ending']}, "
                f"but numTraining is {value['numTraining']}"
            )
        pairs |= {name: (path, drawn.get(name)) for name, path in found.items()}
    return pairs


def _label_values(labels: object) -> dict[int, int] | None:
    """Returns file value -> class for nnU-Net's `labels`, None if its values are our own.

    Args:
      labels: name -> value, or name -> list of values for a region.
    Raises:
      ListProblem: unless there are a pancreas and at most one tumour under unambiguous names.
    """

    def unclear(problem: str) -> NoReturn:
        fix = (
            "list the scans with experiments.list_cases and write `label_values` into the manifest"
        )
        raise ListProblem(rules.MANIFEST_REFERENCE, problem, fix)

    if not isinstance(labels, dict):
        problem = f"`labels` is {labels!r}"
        raise ListProblem(rules.MANIFEST_KEYS, problem, "expected name -> value")
    values = [
        v for value in labels.values() for v in (value if isinstance(value, list) else [value])
    ]
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            problem = f"`labels` has the value {value!r}"
            raise ListProblem(rules.MANIFEST_KEYS, problem, "expected whole numbers")
    found: dict[int, int] = {}
    for class_, known in _CLASS_NAMES.items():
        regions = [value for name, value in labels.items() if _plain(name) in known]
        if len(regions) > 1 or (class_ == 1 and not regions):
            all_names = ", ".join(map(str, labels))
            unclear(f"{len(regions)} of the labels {all_names} are named {CLASSES[class_]}")
        own = regions[0] if regions and isinstance(regions[0], list) else regions
        found |= dict.fromkeys(own, class_)
    doubtful = [
        str(name)
        for name in labels
        if ("pancrea" in str(name).lower() or _TUMOUR.search(str(name)))
        and not any(_plain(name) in known for known in _CLASS_NAMES.values())
    ]
    if doubtful:
        unclear(f"it is unclear which class the label {', '.join(doubtful)} is")
    return None if found == {v: v for v in values if v != 0} else found


def _plain(name: object) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().lower()


def _require_pancreas(labels: object) -> None:
    """Refuses the dataset.json of another organ, or with another order of the classes.

    Its 1 and 2 would be taken for pancreas and tumour.
    """
    if not isinstance(labels, dict):
        return
    for value, class_ in FOREGROUND.items():
        # MSD has {"1": "pancreas"}, nnU-Net {"pancreas": 1}
        name = labels.get(
            str(value), next((name for name, number in labels.items() if number == value), None)
        )
        if name is None:
            continue
        if value == 1:
            fits = "pancrea" in str(name).lower() and _plain(name) not in _CLASS_NAMES[2]
        elif value == 2:
            fits = bool(_TUMOUR.search(str(name)) or _MASS.search(str(name)))
        else:
            fits = _plain(name) in _CLASS_NAMES[value]
        if not fits:
            problem = f"label {value} is {name!r} there, not {class_}"
            fix = (
                "give the dataset.json of a pancreas task, or list the scans with "
                "experiments.list_cases and write `label_values` into the manifest"
            )
            raise ListProblem(rules.MANIFEST_REFERENCE, problem, fix)
