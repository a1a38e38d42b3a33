"""What `index.json` and `case.json` must hold: a failing disk or an editor may have changed it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runkit import settings
from runkit.settings import Condition


def check_index(index: Any) -> None:
    """Checks the content of `index.json`.

    Raises:
      ValueError: naming the first entry that is missing or is not what is expected.
    """
    if not isinstance(index, Mapping):
        raise ValueError("expected a JSON object")
    for key, condition in _INDEX.items():
        if key in index or key in _REQUIRED:
            settings.require(condition, f"`{key}`", index.get(key))
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
        _is_texts(record.get("sources"))
        and isinstance(record.get("settings"), Mapping)
        and isinstance(native, Mapping)
        and _is_shape(native.get("shape"))
        and _is_affine(native.get("affine"))
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())


def _is_numbers(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(number) in (int, float) and math.isfinite(number) for number in value)
    )


def _is_shape(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(voxels) is int and voxels >= 1 for voxels in value)
    )


def _is_affine(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_numbers(row, 4) for row in value)


def _is_whole_numbers(value: object) -> bool:
    return isinstance(value, Mapping) and all(type(number) is int for number in value.values())


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
        _is_numbers(value.get("target_mm"), 3)
        and min(value["target_mm"]) > 0
        and _is_numbers(value.get("window_hu"), 2)
        and (labels is None or (_is_by_value(labels) and _is_whole_numbers(labels)))
    )


def _are_splits(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(cases, list) and all(isinstance(case, str) for case in cases)
        for cases in value.values()
    )


_TEXTS = Condition(_is_texts, "a JSON object of texts")
_INDEX = {
    "site": Condition(lambda value: isinstance(value, str) and value != "", "a name"),
    "seed": Condition(lambda value: type(value) is int, "a whole number"),
    "settings": Condition(_are_settings, "`target_mm`, `window_hu` and `label_values`"),
    "splits": Condition(_are_splits, "names of splits with lists of cases"),
    "numbers": Condition(_is_whole_numbers, "cases with their running numbers"),
    "sources": _TEXTS,
    "classes": Condition(
        lambda value: _is_by_value(value) and _is_texts(value), "label values with their names"
    ),
    "declared_labels": Condition(
        lambda value: value is None or _is_texts(value), "null or classes with their declaration"
    ),
}
_REQUIRED = ("site", "seed", "settings", "splits", "numbers", "sources")
