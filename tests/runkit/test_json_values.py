import math

import pytest

from runkit import json_values
from runkit.json_values import OBJECT, WHOLE

NO_NUMBERS = [None, True, False, "1", [1], {"a": 1}, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_json_does_not_call_a_number_is_none(value):
    assert not json_values.is_number(value) and not json_values.is_whole(value)
    assert not json_values.are_numbers([1.0, value], 2)


def test_numbers_and_their_ranges():
    assert all(map(json_values.is_number, (0, -3, 2.5, 10**300)))
    assert json_values.is_whole(-3) and not json_values.is_whole(2.0)
    assert json_values.is_whole(4, 4, 4)
    assert not json_values.is_whole(3, 4) and not json_values.is_whole(5, 4, 4)


def test_lists_and_objects():
    assert json_values.are_numbers([1, 2.5], 2) and json_values.are_numbers([], 0)
    assert not json_values.are_numbers([1, 2], 3) and not json_values.are_numbers("12", 2)
    assert json_values.is_object_of({"a": 1}, json_values.is_number)
    assert json_values.is_object_of({}, json_values.is_number)
    assert not json_values.is_object_of({"a": "1"}, json_values.is_number)
    assert not json_values.is_object_of([1], json_values.is_number)
    assert json_values.is_object_of_texts({"a": "b"})
    assert not json_values.is_object_of_texts({"a": None})


def test_the_first_wrong_or_missing_entry_is_named():
    conditions = {"a": WHOLE, "b": OBJECT}
    json_values.require({}, conditions)
    json_values.require({"a": 1, "other": "x"}, conditions, may_lack=["b"])
    with pytest.raises(ValueError, match=r"^`b` is None; expected a JSON object$"):
        json_values.require({"a": 1}, conditions, may_lack=())
    with pytest.raises(ValueError, match=r"^`in\.a` is '1'; expected a whole number$"):
        json_values.require({"a": "1"}, conditions, prefix="in.")
