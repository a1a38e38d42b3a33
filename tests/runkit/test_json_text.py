import json

import pytest

from runkit import json_text


@pytest.mark.parametrize(
    "value", [0, -7, 10**299, 1.5, 1e300, "12", [1, [2]], {"3": {"a": 4}}, None]
)
def test_what_a_float_can_hold_is_read_as_json_does(value):
    assert json_text.loads(json.dumps(value)) == value
    assert type(json_text.loads(json.dumps(value))) is type(value)


@pytest.mark.parametrize("text", ["1" + "0" * 400, "-1" + "0" * 400, '{"a": [1' + "0" * 400 + "]}"])
def test_a_number_that_no_float_can_hold_is_refused(text):
    with pytest.raises(ValueError, match=r"a number of 40[12] digits"):
        json_text.loads(text)


def test_options_are_those_of_json():
    def refused(name):
        raise ValueError(name)

    with pytest.raises(ValueError, match="NaN"):
        json_text.loads("[NaN]", parse_constant=refused)
    with pytest.raises(ValueError, match="Expecting"):
        json_text.loads(b"{")
