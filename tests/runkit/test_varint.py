import pytest

from runkit import varint


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")],  # 300: protobuf's manual
)
def test_a_number_is_written_as_protobuf_writes_it(value, encoded):
    assert varint.encode(value) == encoded
    assert varint.decode(b"?" + encoded + b"?", 1) == (value, 1 + len(encoded))


def test_a_number_that_is_cut_off_or_too_long_ends_beyond_the_data():
    for data in (b"", b"\x80", varint.encode(2**35)):
        assert varint.decode(data, 0) == (0, len(data) + 1)
    assert varint.decode(varint.encode(2**35 - 1), 0) == (2**35 - 1, 5)
