"""What `index.json` and `case.json` must hold: a failing disk or an editor may have changed it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runkit import json_values
from runkit.json_values import WHOLE, are_numbers, is_object_of, is_object_of_texts, is_whole
from runkit.settings import Condition


def check_index(index: Any) -> None:
    """Checks the content of `index.json`.

    Raises:
      ValueError: naming the first entry that is missing or is not what is expected.
    """
    if not isinstance(index, Mapping):
        raise ValueError("expected a JSON object")
    json_values.require(index, _INDEX, may_lack=("classes", "declared_labels"))
    numbers = index["numbers"]
    listed = [case for cases in index["splits"].values() for case in cases]
    if not (set(listed) <= numbers.keys() and numbers.keys() == index["sources"].keys()):
        raise ValueError("`splits`, `numbers` and `sources` are of different cases")


def is_case(record: Any) -> bool:
    """Returns whether `record` is the content of a `case.json`."""
    if not isinstance(record, Mapping):
        return False
    native = record.get("native")
    return (
        is_object_of_texts(record.get("sources"))
        and isinstance(record.get("settings"), Mapping)
        and isinstance(native, Mapping)
        and _is_shape(native.get("shape"))
        and _is_affine(native.get("affine"))
    )


def _is_shape(value: object) -> bool:
    return are_numbers(value, 3) and all(is_whole(voxels, 1) for voxels in value)


def _is_affine(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(are_numbers(row, 4) for row in value)


def _is_by_value(value: object) -> bool:
    """Returns whether the keys are label values, which JSON holds as text."""
    return isinstance(value, Mapping) and all(
        key.removeprefix("-").isdecimal() and len(key) < 20 for key in value
    )


def _are_settings(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    labels = value.get("label_values")
    return (
        are_numbers(value.get("target_mm"), 3)
        and min(value["target_mm"]) > 0
        and are_numbers(value.get("window_hu"), 2)
        and (labels is None or (_is_by_value(labels) and is_object_of(labels, is_whole)))
    )


def _are_splits(value: object) -> bool:
    return is_object_of(
        value,
        lambda cases: isinstance(cases, list) and all(isinstance(case, str) for case in cases),
    )


_INDEX = {
    "site": Condition(lambda value: isinstance(value, str) and value != "", "a name"),
    "seed": WHOLE,
    "settings": Condition(_are_settings, "`target_mm`, `window_hu` and `label_values`"),
    "splits": Condition(_are_splits, "names of splits with lists of cases"),
    "numbers": Condition(
        lambda value: is_object_of(value, is_whole), "cases with their running numbers"
    ),
    "sources": Condition(is_object_of_texts, "a JSON object of texts"),
    "classes": Condition(
        lambda value: _is_by_value(value) and is_object_of_texts(value),
        "label values with their names",
    ),
    "declared_labels": Condition(
        lambda value: value is None or is_object_of_texts(value),
        "null or classes with their declaration",
    ),
}
