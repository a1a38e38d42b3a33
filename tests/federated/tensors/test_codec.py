import random
import zlib

import numpy as np
import pytest

from federated import errors
from federated.tensors import codec, tensor_files
from federated.tensors.codec import DEFLATED, HALF, RAW, SPARSE, Chunk
from federated.tensors.tensor_files import TensorFile
from federated.tensors.weights import CHUNK_BYTES
from tests.federated import manifests

RNG = np.random.default_rng(1)
ARRAYS = {
    "kernel": RNG.normal(size=(300, 1000)).astype(np.float32),
    "half": np.array([0.5, -2.0, 3.0], np.float16),
    "wide": np.array([1e300, -1.0]),
    "empty": np.zeros((0,), np.float32),
    "scalar": np.array(7.0, np.float32),
}


@pytest.fixture
def opened(tmp_path):
    files = []

    def save(arrays):
        tensor_files.save(tmp_path / f"{len(files)}.safetensors", arrays)
        files.append(TensorFile(tmp_path / f"{len(files)}.safetensors"))
        return files[-1]

    yield save
    for file in files:
        file.close()


@pytest.mark.parametrize("transport", codec.TRANSPORTS)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.51, 0.7, 0.9, 1.0])
def test_a_quarter_of_the_values_takes_at_most_35_per_cent_in_whatever_layers_they_lie(
    opened, transport, share
):
    """Large changes gather in some layers: then `share` of the values differ in some chunks."""
    per_chunk = CHUNK_BYTES // 4
    before = RNG.normal(size=(8, per_chunk)).astype(np.float16).astype(np.float32)
    after, left = before.copy(), before.size // 4
    for chunk in after:
        count = min(left, int(share * per_chunk))
        chosen = RNG.choice(per_chunk, count, replace=False)
        chunk[chosen] = RNG.normal(size=count)
        left -= count
    if transport == "half":
        after = codec.rounded({"w": after}, keep={"w": before})[0]["w"]
    files = opened({"w": after}), opened({"w": before})
    sent = list(codec.chunks(files[0], transport=transport, before=files[1]))
    assert sum(len(chunk.data) for chunk in sent) <= 0.35 * after.nbytes
    if transport == "half":
        assert max(len(chunk.data) for chunk in sent) <= CHUNK_BYTES // 2


@pytest.mark.parametrize("transport", codec.TRANSPORTS)
def test_every_transport_restores_the_same_bytes(opened, transport):
    file, manifest = opened(ARRAYS), manifests.manifest_of(ARRAYS)
    received = list(codec.chunks(file, transport=transport))
    assert [chunk.index for chunk in received] == list(
        range(manifest.num_chunks)
    ) and manifest.num_chunks == 2
    for chunk in received:
        assert manifest.is_chunk(chunk.index, codec.decoded(chunk, manifest.size_of(chunk.index)))
    assert [chunk.index for chunk in codec.chunks(file, [1], transport=transport)] == [1]


@pytest.mark.parametrize("transport", codec.TRANSPORTS)
def test_a_chunk_that_differs_in_few_values_travels_as_these(opened, transport):
    after = {name: array.copy() for name, array in ARRAYS.items()}
    after["kernel"][::4] += np.float32(0.5)  # the second chunk, which is small, has none of them
    after["wide"][0] = -0.0
    before, file, manifest = opened(ARRAYS), opened(after), manifests.manifest_of(after)
    sent = list(codec.chunks(file, transport=transport, before=before))
    assert [chunk.encoding for chunk in sent] == [SPARSE, SPARSE]
    for chunk in sent:
        size = manifest.size_of(chunk.index)
        start = chunk.index * 2**20
        data = codec.decoded(chunk, size, lambda at=start, n=size: before.read_range(at, n))
        assert manifest.is_chunk(chunk.index, data)
        with pytest.raises(errors.DamagedTransfer, match=f"chunk {chunk.index}.*encoding 3"):
            codec.decoded(chunk, size)  # a receiver without the model
    assert sum(len(chunk.data) for chunk in sent) < 0.35 * file.nbytes


def test_a_chunk_that_differs_in_most_values_travels_as_its_transport_says(opened):
    after = {name: array + array.dtype.type(1) for name, array in ARRAYS.items()}
    before, file = opened(ARRAYS), opened(after)
    assert [c.encoding for c in codec.chunks(file, before=before)] == [RAW, RAW]
    deflated = list(codec.chunks(file, transport="deflate", before=before))
    assert deflated == list(codec.chunks(file, transport="deflate"))


def test_deflated_weights_are_smaller_and_noise_is_not_larger(opened):
    size = sum(array.nbytes for array in ARRAYS.values())
    assert (
        sum(len(chunk.data) for chunk in codec.chunks(opened(ARRAYS), transport="deflate"))
        < 0.95 * size
    )
    noise = {"w": np.frombuffer(RNG.bytes(2**20), "<f2")}
    assert [chunk.encoding for chunk in codec.chunks(opened(noise), transport="deflate")] == [RAW]


def test_half_halves_rounded_values_and_leaves_others_as_they_are(opened):
    large = {"kernel": RNG.normal(size=(2**19,)).astype(np.float32)}
    rounded, error = codec.rounded(large)
    assert [chunk.encoding for chunk in codec.chunks(opened(rounded), transport="half")] == [
        HALF,
        HALF,
    ]
    assert [chunk.encoding for chunk in codec.chunks(opened(large), transport="half")] == [RAW, RAW]
    np.testing.assert_array_equal(
        rounded["kernel"], large["kernel"].astype(np.float16).astype(np.float32)
    )
    difference = np.abs(large["kernel"].astype(np.float64) - rounded["kernel"])
    assert error.largest == difference.max() and 1e-5 < error.relative < 2**-11
    np.testing.assert_allclose(
        error.relative,
        np.linalg.norm(difference) / np.linalg.norm(large["kernel"].astype(np.float64)),
        rtol=1e-9,
    )


def test_rounding_keeps_shapes_other_dtypes_and_values_beyond_float16():
    rounded, error = codec.rounded({**ARRAYS, "large": np.array([[1e6, 0.1]], np.float32)})
    assert (
        rounded["large"].tolist() == [[1e6, float(np.float32(np.float16(0.1)))]]
        and rounded["scalar"].shape == ()
    )
    assert (
        rounded["wide"] is not None
        and rounded["wide"].dtype == np.float64
        and rounded["half"].dtype == np.float16
    )
    assert error.largest < 2**-9


def test_rounding_leaves_what_equals_another_model():
    model = {"w": np.array([0.1, 0.2, 1e-9], np.float32), "wide": np.array([0.1])}
    update = {"w": np.array([0.1, 0.3, 1e-9], np.float32), "wide": np.array([0.1])}
    found, _ = codec.rounded(update, keep=model)
    expected = [np.float32(0.1), np.float32(np.float16(0.3)), np.float32(1e-9)]
    assert found["w"].tolist() == [float(value) for value in expected]
    assert found["w"].dtype == np.float32 and found["wide"].dtype == np.float64


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(0, b"123"),
        Chunk(0, b"12345"),
        Chunk(0, b"1234", 7),
        Chunk(0, b"123", HALF),
        Chunk(0, b"12", HALF + 1),
        Chunk(0, b"1234", DEFLATED),
        Chunk(0, zlib.compress(b"12345"), DEFLATED),
        Chunk(0, zlib.compress(b"123"), DEFLATED),
        Chunk(0, zlib.compress(b"1234")[:-1], DEFLATED),
        Chunk(0, zlib.compress(b"1234") + b"x", DEFLATED),
        Chunk(0, zlib.compress(bytes(2**24)), DEFLATED),
    ],
    ids=[
        "short",
        "long",
        "unknown",
        "odd half",
        "unknown half",
        "no zlib",
        "inflates to more",
        "to less",
        "cut",
        "trailing",
        "bomb",
    ],
)
def test_a_chunk_of_another_size_than_declared_is_damaged(chunk):
    with pytest.raises(errors.DamagedTransfer, match="chunk 0"):
        codec.decoded(chunk, 4)


def test_random_bytes_are_decoded_to_their_size_or_refused():
    rng = random.Random(5)
    for _ in range(2000):
        size = rng.randrange(64)
        chunk = Chunk(rng.randrange(2**32), rng.randbytes(rng.randrange(64)), rng.randrange(5))
        try:
            assert len(codec.decoded(chunk, size, lambda n=size: bytes(n))) == size
        except errors.DamagedTransfer:
            continue
