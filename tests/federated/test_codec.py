import dataclasses
import tracemalloc

import numpy as np
import pytest

from federated import codec, errors, tensor_files, weights
from federated.tensor_files import TensorFile
from federated.weights import TensorSpec

ARRAYS = {
    "kernel": np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32),
    "half": np.array([0.5, -2.0, 3.0], np.float16),
    "wide": np.array([1e300, -1.0]),
    "empty": np.zeros((0,), np.float32),
    "scalar": np.array(7.0, np.float32),
}


@pytest.fixture
def file(tmp_path):
    tensor_files.save(tmp_path / "a.safetensors", ARRAYS)
    with TensorFile(tmp_path / "a.safetensors") as opened:
        yield opened


@pytest.mark.parametrize("chunk_bytes", [8, 16, 64, 2**20])
def test_round_trip_for_any_chunk_size(file, tmp_path, chunk_bytes):
    sha256 = weights.digest(ARRAYS)
    received = codec.receive_to_memory(file.specs, sha256, codec.chunks(file, chunk_bytes=chunk_bytes))
    codec.receive_to_file(file.specs, sha256, codec.chunks(file, chunk_bytes=chunk_bytes), tmp_path / "b.safetensors", metadata={"k": "v"})
    from_file, metadata = tensor_files.load(tmp_path / "b.safetensors")
    assert metadata == {"k": "v"}
    for name, array in ARRAYS.items():
        for other in (received[name], from_file[name]):
            assert other.dtype == array.dtype
            np.testing.assert_array_equal(other, array)
        assert received[name].flags.writeable


def spoilt(file, how):
    chunks = list(codec.chunks(file, chunk_bytes=16))
    if how == "truncated":
        return chunks[:-1]
    if how == "one too many":
        return [*chunks, chunks[-1]]
    if how == "one missing":
        return chunks[:2] + chunks[3:]
    if how == "one twice":
        return [*chunks[:3], chunks[2], *chunks[3:]]
    if how == "two swapped":
        return [chunks[1], chunks[0], *chunks[2:]]
    if how == "bit flipped":
        data = bytearray(chunks[3].data)
        data[0] ^= 1
        return [*chunks[:3], dataclasses.replace(chunks[3], data=bytes(data)), *chunks[4:]]
    if how == "longer than declared":
        big = b"\0" * 4096
        return [codec.Chunk(chunks[0].tensor, 0, big, codec.checksum(chunks[0].tensor, 0, big)), *chunks[1:]]
    if how == "odd length":
        odd = chunks[0].data[:3]
        return [codec.Chunk(chunks[0].tensor, 0, odd, codec.checksum(chunks[0].tensor, 0, odd)), *chunks[1:]]
    if how == "empty chunk":
        return [codec.Chunk(chunks[0].tensor, 0, b"", codec.checksum(chunks[0].tensor, 0, b"")), *chunks]
    assert how == "other values, right checksums"
    other = bytes(16)
    return [codec.Chunk(chunks[0].tensor, 0, other, codec.checksum(chunks[0].tensor, 0, other)), *chunks[1:]]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "ended in half at byte 0"),
        ("one too many", "more data arrived"),
        ("one missing", r"kernel: expected tensor \d from byte 16, received tensor \d from byte 32"),
        ("one twice", "expected tensor"),
        ("two swapped", "expected tensor"),
        ("bit flipped", "checksum of the chunk at byte"),
        ("longer than declared", "a chunk of 4096 bytes at byte 0 does not fit"),
        ("odd length", "a chunk of 3 bytes"),
        ("empty chunk", "a chunk of 0 bytes"),
        ("other values, right checksums", "SHA-256 of the model"),
    ],
)
def test_a_damaged_transfer_says_where_and_is_worth_sending_again(file, tmp_path, how, message):
    sha256 = weights.digest(ARRAYS)
    with pytest.raises(errors.DamagedTransfer, match=message):
        codec.receive_to_memory(file.specs, sha256, spoilt(file, how))
    with pytest.raises(errors.DamagedTransfer, match=message):
        codec.receive_to_file(file.specs, sha256, spoilt(file, how), tmp_path / "b.safetensors", metadata={})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(tmp_path, bad):
    arrays = {**ARRAYS, "kernel": ARRAYS["kernel"].copy()}
    arrays["kernel"][4, 6] = bad
    sha256 = tensor_files.save(tmp_path / "a.safetensors", arrays)
    with (
        TensorFile(tmp_path / "a.safetensors") as file,
        pytest.raises(errors.UpdateRefused, match="kernel holds a value that is not finite"),
    ):
        codec.receive_to_file(file.specs, sha256, codec.chunks(file), tmp_path / "b.safetensors", metadata={})


def test_a_huge_declaration_allocates_nothing():
    tracemalloc.start()
    with pytest.raises(errors.IncompatibleWeights, match="4398046511104 bytes declared"):
        codec.receive_to_memory([TensorSpec("a", "F32", (2**40,))], "0" * 64, iter(()))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_random_chunks_are_refused_with_a_typed_error_and_nothing_else():
    rng, specs = np.random.default_rng(5), weights.specs_of(ARRAYS)
    for _ in range(300):
        chunks = [
            codec.Chunk(int(rng.integers(0, 7)), int(rng.integers(0, 64)), rng.bytes(int(rng.integers(0, 40))), int(rng.integers(0, 2**32)))
            for _ in range(int(rng.integers(0, 6)))
        ]
        with pytest.raises(errors.DamagedTransfer):
            codec.receive_to_memory(specs, "0" * 64, chunks)
