"""What the files of a model's folder may say of the model; other sites' folders are read, too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from runkit import settings
from runkit.settings import Condition

_DEPTH = 8  # of nested training data


def check_about(about: Mapping[str, Any]) -> None:
    """Checks `model.json`, apart from its format number and the gate, which is checked when used.

    Raises:
      ValueError: naming the first key whose value is not what is expected.
    """
    _require(about, _ABOUT)
    _require(about.get("training_data", {}), {"view_mm": _VIEW}, "training_data.")


def check_plan(plan: Any) -> None:
    """Checks what a prediction and the model card read of `plan.json`.

    Raises:
      ValueError: naming the first key whose value is not what is expected.
    """
    if not isinstance(plan, dict):
        raise ValueError("expected a JSON object with the settings of a training")
    _require(plan, _PLAN)
    _require(plan.get("inference", {}), _INFERENCE, "inference.")


def _require(
    values: Mapping[str, Any], conditions: Mapping[str, Condition], prefix: str = ""
) -> None:
    for key, condition in conditions.items():
        if key in values:
            settings.require(condition, f"`{prefix}{key}`", values[key])


def _are_numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _is_range(value: Any) -> bool:
    return _are_numbers(value, 2) and value[0] <= value[1]


def _is_nested(value: object, depth: int) -> bool:
    if isinstance(value, Mapping):
        return depth > 0 and all(_is_nested(inner, depth - 1) for inner in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_nested(inner, depth - 1) for inner in value)
    return True


def _is_mean(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and {"mean", "low", "high", "cases"} <= value.keys()
        and all(type(value[key]) in (int, float, NoneType) for key in ("mean", "low", "high"))
        and type(value["cases"]) is int
    )


def _are_scores(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(measures, Mapping) and all(map(_is_mean, measures.values()))
        for measures in value.values()
    )


_OBJECT = Condition(lambda value: isinstance(value, Mapping), "a JSON object")
_ABOUT = {
    "name": Condition(
        lambda value: isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable(),
        "a text of at most 200 characters",
    ),
    "training_data": Condition(
        lambda value: isinstance(value, Mapping) and _is_nested(value, _DEPTH),
        f"a JSON object, nested at most {_DEPTH} deep",
    ),
    "scores": Condition(
        _are_scores, "cases with their measures, each with `mean`, `low`, `high` and `cases`"
    ),
    "gate": _OBJECT,
}
_VIEW = Condition(
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_range, value)),
    "the least and the largest length in mm along x, y and z",
)
_PLAN = {
    "classes": Condition(
        lambda value: (
            isinstance(value, Mapping) and all(isinstance(name, str) for name in value.values())
        ),
        "label values with their names",
    ),
    "spacing_mm": Condition(
        lambda value: _are_numbers(value, 3) and all(0.1 <= length <= 100 for length in value),
        "three lengths from 0.1 to 100 mm",
    ),
    "window_hu": Condition(
        lambda value: _are_numbers(value, 2) and value[0] < value[1],
        "the lowest and the highest HU, with the lowest below the highest",
    ),
    "inference": _OBJECT,
}
_INFERENCE = {
    "window": Condition(
        lambda value: (
            _are_numbers(value, 3)
            and all(isinstance(size, int) and 1 <= size <= 4096 for size in value)
        ),
        "three numbers of voxels from 1 to 4096",
    ),
    "overlap": Condition(
        lambda value: type(value) in (int, float) and 0 <= value < 1,
        "a share from 0 up to, not including, 1",
    ),
    "blending": Condition(lambda value: isinstance(value, str), "a text"),
}
