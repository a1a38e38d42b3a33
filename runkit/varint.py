"""Whole numbers as protobuf writes them: seven bits per byte, the lowest first."""

from __future__ import annotations


def encode(value: int) -> bytes:
    """Returns the bytes of a number that is not negative."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes, at: int) -> tuple[int, int]:
    """Returns (the number that begins at byte `at`, its end).

    A number that is truncated or longer than five bytes ends beyond the data.
    """
    value = shift = 0
    for position in range(at, min(at + 5, len(data))):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value, position + 1
        shift += 7
    return 0, len(data) + 1
