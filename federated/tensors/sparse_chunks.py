"""Chunks of an update that differ in few values from the global model that it was trained from.

Such a chunk is sent as a bit mask of the four-byte words that differ, followed by the differences:
word XOR the model's word, in byte planes, so that the signs and exponents, which are alike, become
zeros. The receiver, which has the model, restores every byte; the values are not interpreted, so
this is lossless for every dtype. All of it is deflated:

    mask      ceil(words / 8) bytes; bit 0 of byte 0 is the first word
    words     4 planes of as many bytes as the mask has ones
    rest      the last bytes, unchanged, of a chunk whose size is not a multiple of four
"""

from __future__ import annotations

import zlib

import numpy as np

from federated import errors

_WORD = 4


def packed(data: bytes, before: bytes) -> bytes | None:
    """Returns a chunk as its differences from `before`; None if nearly all of its words differ.

    Args:
      before: the same bytes of the global model.
    """
    words, rest = _words(data)
    changed = words ^ _words(before)[0]
    differs = changed != 0
    mask = np.packbits(differs, bitorder="little").tobytes()
    if len(mask) + _WORD * int(np.count_nonzero(differs)) > words.nbytes:
        return None  # the mask takes more than the words that are left out
    planes = changed[differs].view(np.uint8).reshape(-1, _WORD).T.tobytes()
    return zlib.compress(mask + planes + rest, 1)


def unpacked(packed_: bytes | memoryview, before: bytes, *, index: int) -> bytes:
    """Returns the bytes of a chunk.

    Allocates at most a few times the chunk's size, whatever the packed bytes claim.

    Args:
      before: the same bytes of the global model, as many as the chunk has.
      index: index of the chunk, for the message.
    Raises:
      DamagedTransfer: for bytes that `packed` cannot return.
    """
    words, rest = _words(before)
    words = words.copy()
    start = -(-words.size // 8)
    content = _inflated(packed_, start + words.nbytes + len(rest), index)
    bits = np.unpackbits(np.frombuffer(content[:start], np.uint8), bitorder="little")
    differs = bits[: words.size].astype(bool)
    count = int(np.count_nonzero(bits))
    if (
        len(content) != start + _WORD * count + len(rest)
        or count != np.count_nonzero(differs)  # a bit beyond the last word
    ):
        raise _damaged(index, f"{count} words do not take {len(content)} bytes")
    planes = np.frombuffer(content[start : start + _WORD * count], np.uint8).reshape(_WORD, -1)
    words[differs] ^= np.ascontiguousarray(planes.T).view("<u4").ravel()
    return words.tobytes() + content[start + _WORD * count :]


def _words(data: bytes) -> tuple[np.ndarray, bytes]:
    body = len(data) // _WORD * _WORD
    return np.frombuffer(data, "<u4", body // _WORD), bytes(data[body:])


def _inflated(packed_: bytes | memoryview, most: int, index: int) -> bytes:
    inflating = zlib.decompressobj()
    try:
        content = inflating.decompress(packed_, most + 1)
    except zlib.error as error:
        raise _damaged(index, str(error)) from error
    if len(content) > most or not inflating.eof or inflating.unused_data:
        raise _damaged(index, f"it does not inflate to at most {most} bytes")
    return content


def _damaged(index: int, what: str) -> errors.DamagedTransfer:
    return errors.DamagedTransfer(
        f"chunk {index} holds no differences from the global model ({what}); send the model again"
    )
