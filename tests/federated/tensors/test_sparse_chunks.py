import random
import zlib

import numpy as np
import pytest

from federated import errors
from federated.tensors import sparse_chunks

RNG = np.random.default_rng(7)
SIZES = [0, 1, 3, 4, 5, 31, 32, 33, 128, 1000, 4099]


def changed(before, words):
    """Returns a copy of bytes in which some words differ."""
    data = bytearray(before)
    for word in words:
        for at in range(4 * word, min(4 * word + 4, len(data))):
            data[at] ^= 1 + at % 255
    return bytes(data)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_what_is_unpacked_is_what_was_packed(size, share):
    before = RNG.bytes(size)
    words = RNG.choice(size // 4, int(share * (size // 4)), replace=False)
    data = changed(before, words)
    assert sparse_chunks.unpacked(sparse_chunks.packed(data, before), before, index=0) == data


def test_bytes_after_the_last_whole_word_are_kept():
    assert (
        sparse_chunks.unpacked(sparse_chunks.packed(b"abcdXY", b"abcdPQ"), b"abcdPQ", index=0)
        == b"abcdXY"
    )


def test_the_layout_by_hand():
    """Words 0 and 9 of ten differ, in their lowest and in all bytes."""
    before, data = bytearray(40), bytearray(40)
    data[0], data[36:40] = 0x05, b"\x01\x02\x03\x04"
    content = zlib.decompress(sparse_chunks.packed(bytes(data), bytes(before)))
    assert content == b"\x01\x02" + b"\x05\x01" + b"\x00\x02" + b"\x00\x03" + b"\x00\x04"


def test_a_chunk_whose_mask_takes_more_than_it_saves_travels_as_before():
    before = bytes(400)  # 100 words, and 13 bytes of mask
    assert sparse_chunks.packed(changed(before, range(97)), before) is None
    assert sparse_chunks.packed(changed(before, range(96)), before) is not None


def test_signed_zeros_and_nans_keep_their_bits():
    before = np.array([0.0, 1.0, 2.0, 3.0], np.float32).tobytes()
    data = np.array([-0.0, 1.0, 2.0, np.nan], np.float32).tobytes()
    assert sparse_chunks.unpacked(sparse_chunks.packed(data, before), before, index=0) == data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(1),
        b"\x01" + bytes(1),
        b"\x01" + bytes(7),
        b"\x01" + bytes(9),
        b"\x01\x00" + bytes(3),
        b"\x00\x10" + bytes(4),
        b"\x00\x04" + bytes(4),
        bytes(2**24),
    ],
    ids=[
        "nothing",
        "mask cut",
        "values missing",
        "values too many",
        "more values too many",
        "values cut",
        "a bit beyond the last byte of words",
        "a bit beyond the last word",
        "a bomb",
    ],
)
def test_content_that_does_not_fit_is_damaged(content):
    with pytest.raises(errors.DamagedTransfer, match="chunk 3"):
        sparse_chunks.unpacked(zlib.compress(content), bytes(40), index=3)


@pytest.mark.parametrize(
    "data",
    [b"", b"no zlib", zlib.compress(bytes(2))[:-1], zlib.compress(bytes(2)) + b"x"],
    ids=["empty", "no zlib", "cut", "trailing"],
)
def test_what_cannot_be_inflated_is_damaged(data):
    with pytest.raises(errors.DamagedTransfer, match="chunk 0"):
        sparse_chunks.unpacked(data, bytes(40), index=0)


def test_random_content_is_restored_to_its_size_or_refused():
    rng, restored = random.Random(8), 0
    for _ in range(2000):
        size = rng.randrange(40)
        content = zlib.compress(rng.randbytes(rng.randrange(20)))
        if rng.randrange(2):
            content = content[: rng.randrange(len(content))] + rng.randbytes(rng.randrange(3))
        try:
            assert len(sparse_chunks.unpacked(content, bytes(size), index=0)) == size
            restored += 1
        except errors.DamagedTransfer:
            continue
    assert restored > 5


def test_a_quarter_of_the_values_takes_less_than_35_per_cent():
    """Adam's steps are about as large as each other, so the values that differ look like noise."""
    before = RNG.normal(size=2**18).astype(np.float32) * np.float32(0.05)
    data = before.copy()
    data[RNG.choice(2**18, 2**16, replace=False)] += RNG.normal(size=2**16).astype(np.float32) / 1e3
    packed = sparse_chunks.packed(data.tobytes(), before.tobytes())
    assert 0.20 < len(packed) / data.nbytes < 0.30
