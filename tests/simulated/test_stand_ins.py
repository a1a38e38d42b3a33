"""What takes the place of parts of the product gives what they give."""

import json

import pytest

from tests.simulated import stand_ins

VALUE = {"event": "login", "site": "C1", "text": "Ä\u2028", "values": [1, 2.5, None, True]}
TEXTS = [
    text
    for plain in ("{}", "[]", "3", '"a"', json.dumps(VALUE), json.dumps(VALUE, ensure_ascii=False))
    for text in (plain, f"{plain}\n", f" {plain}", f"{plain} \n", f"{plain}\r\n", f"{plain}\n\n")
]
DAMAGED = ["", "\n", '{"a": 1', '{"a": 1}}\n', '{"a": 1}{"b": 2}', "nothing"]


def _read(loads, text):
    """Returns the value, or the kind of the error."""
    try:
        return loads(text)
    except ValueError as error:
        return type(error).__name__


@pytest.mark.parametrize("text", [*TEXTS, *DAMAGED])
def test_json_is_read_as_by_the_standard_library(text):
    assert _read(stand_ins._plain_value, text) == _read(json.loads, text)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"):
        data = text.encode(encoding)
        for given in (data, bytearray(data)):
            assert _read(stand_ins._plain_value, given) == _read(json.loads, given)


def test_bytes_that_are_no_text_are_refused_as_by_the_standard_library():
    for data in (b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}\n', b'{"\0a": 1}'):
        assert _read(stand_ins._plain_value, data) == _read(json.loads, data)
