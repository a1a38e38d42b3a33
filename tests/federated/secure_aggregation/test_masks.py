import numpy as np
import pytest

from federated.secure_aggregation import masks
from federated.secure_aggregation.masks import Mask

SEED = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")


def test_the_stream_is_that_of_aes_256_in_counter_mode():
    # FIPS 197, appendix C.3: the block cipher on one block; the stream begins with counter 0.
    key = bytes(range(32))
    plain = bytes.fromhex("00112233445566778899aabbccddeeff")
    block = bytes.fromhex("8ea2b7ca516745bfeafc49904b496089")
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    assert ecb.update(plain) == block
    expected = Cipher(algorithms.AES(SEED), modes.ECB()).encryptor()
    blocks = b"".join(expected.update(number.to_bytes(16, "big")) for number in range(6))
    np.testing.assert_array_equal(masks.words(SEED, 0, 12), np.frombuffer(blocks, "<u8"))


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1, 1), (1, 6), (7, 4), (11, 1)])
def test_any_piece_of_a_stream_is_the_same_as_in_the_whole(first, count):
    whole = masks.words(SEED, 0, 12)
    np.testing.assert_array_equal(masks.words(SEED, first, count), whole[first : first + count])


def test_two_sites_mask_each_other_away():
    values = np.array([1, 2**64 - 1, 0], np.uint64)
    here, there = (masks.pair_mask(*names, SEED) for names in (("C1", "C2"), ("C2", "C1")))
    assert here.opposite() == there
    masked = masks.add(values.copy(), [here], 5)
    assert (masked != values).all()
    np.testing.assert_array_equal(masks.add(masked, [there], 5), values)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="31 bytes; expected 32"):
        masks.words(SEED[1:], 0, 1)
    with pytest.raises(ValueError, match="'C1' has no pair mask with itself"):
        masks.pair_mask("C1", "C1", SEED)


def test_the_stream_of_the_zero_key_is_the_published_one():
    # AES-256 of a zero block under a zero key, as in test case 13 of the GCM specification.
    block = masks.add(np.zeros(2, np.uint64), [Mask(bytes(32))], 0)
    assert block.astype("<u8").tobytes().hex() == "dc95c078a2408989ad48a21492842087"
