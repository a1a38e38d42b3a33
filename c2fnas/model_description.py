"""What the files of a model's folder may say of the model; other sites' folders are read, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runkit import json_values
from runkit.json_values import OBJECT, are_numbers, is_number, is_object_of, is_whole
from runkit.settings import Condition

_DEPTH = 8  # of nested training data


def check_about(about: Mapping[str, Any]) -> None:
    """Checks `model.json`, apart from its format number and the gate, which is checked when used.

    Raises:
      ValueError: naming the first key whose value is not what is expected.
    """
    json_values.require(about, _ABOUT)
    json_values.require(about.get("training_data", {}), {"view_mm": _VIEW}, prefix="training_data.")


def check_plan(plan: Any) -> None:
    """Checks what a prediction and the model card read of `plan.json`.

    Raises:
      ValueError: naming the first key whose value is not what is expected.
    """
    if not isinstance(plan, dict):
        raise ValueError("expected a JSON object with the settings of a training")
    json_values.require(plan, _PLAN)
    json_values.require(plan.get("inference", {}), _INFERENCE, prefix="inference.")


def _is_range(value: Any) -> bool:
    return are_numbers(value, 2) and value[0] <= value[1]


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
        and all(value[key] is None or is_number(value[key]) for key in ("mean", "low", "high"))
        and is_whole(value["cases"])
    )


def _are_scores(value: object) -> bool:
    return is_object_of(value, lambda measures: is_object_of(measures, _is_mean))


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
    "gate": OBJECT,
}
_VIEW = Condition(
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_range, value)),
    "the least and the largest length in mm along x, y and z",
)
_PLAN = {
    "classes": Condition(json_values.is_object_of_texts, "label values with their names"),
    "spacing_mm": Condition(
        lambda value: are_numbers(value, 3) and all(0.1 <= length <= 100 for length in value),
        "three lengths from 0.1 to 100 mm",
    ),
    "window_hu": Condition(
        lambda value: are_numbers(value, 2) and value[0] < value[1],
        "the lowest and the highest HU, with the lowest below the highest",
    ),
    "inference": OBJECT,
}
_INFERENCE = {
    "window": Condition(
        lambda value: are_numbers(value, 3) and all(is_whole(size, 1, 4096) for size in value),
        "three numbers of voxels from 1 to 4096",
    ),
    "overlap": Condition(
        lambda value: is_number(value) and 0 <= value < 1,
        "a share from 0 up to, not including, 1",
    ),
    "blending": Condition(lambda value: isinstance(value, str), "a text"),
}
