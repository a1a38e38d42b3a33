import errno
import json
import os
import struct

import numpy as np
import pytest
import safetensors.numpy

from federated.tensors import tensor_files, weights
from federated.tensors.tensor_files import TensorFile, TensorFileWriter
from tests import wrong_values
from tests.federated import manifests, toy

ARRAYS = {
    "kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "half": np.array([0.5, -2.0, 3.0], np.float16),
    "wide": np.array([[1e300]], np.float64),
    "scalar": np.array(7.0, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


def equal(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name])


def test_the_safetensors_package_reads_what_is_written_here(tmp_path):
    tensor_files.save(tmp_path / "a.safetensors", ARRAYS, {"plan": '{"key": "ä"}'})
    equal(safetensors.numpy.load_file(tmp_path / "a.safetensors"), ARRAYS)
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"plan": '{"key": "ä"}'}


def test_what_the_safetensors_package_writes_is_read_here(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "a.safetensors", {"round": "3"})
    arrays, metadata = tensor_files.load(tmp_path / "a.safetensors")
    equal(arrays, ARRAYS)
    assert metadata == {"round": "3"}


def test_save_and_file_digest_agree_with_the_digest_in_memory(tmp_path):
    assert tensor_files.save(tmp_path / "a.safetensors", ARRAYS) == manifests.digest(ARRAYS)
    with TensorFile(tmp_path / "a.safetensors") as file:
        assert tensor_files.file_digest(file) == manifests.digest(ARRAYS)


def test_the_writer_takes_pieces_of_any_size_and_exactly_all_bytes(tmp_path):
    content = b"".join(
        bytes(weights.little_endian_bytes(ARRAYS[spec.name])) for spec in weights.specs_of(ARRAYS)
    )
    with TensorFileWriter(tmp_path / "a.safetensors", weights.specs_of(ARRAYS), {}) as writer:
        for start in range(0, len(content), 5):
            writer.write(content[start : start + 5])
        assert writer.finish() == manifests.manifest_of(ARRAYS)
    equal(tensor_files.load(tmp_path / "a.safetensors")[0], ARRAYS)
    with TensorFileWriter(tmp_path / "b.safetensors", weights.specs_of(ARRAYS), {}) as writer:
        writer.write(content[:-1])
        with pytest.raises(
            ValueError, match=f"{len(content) - 1} bytes for tensors of {len(content)}"
        ):
            writer.finish()
        with pytest.raises(ValueError, match="bytes for tensors"):
            writer.write(b"12")


def test_ranges_of_all_bytes_are_the_same_from_a_file_in_any_order(tmp_path):
    content = b"".join(
        bytes(weights.little_endian_bytes(ARRAYS[spec.name])) for spec in weights.specs_of(ARRAYS)
    )
    tensor_files.save(tmp_path / "a.safetensors", ARRAYS)
    entries, place, body = {}, 0, b""
    for name, array in ARRAYS.items():  # not the canonical order
        data = bytes(weights.little_endian_bytes(array))
        code = next(spec.dtype for spec in weights.specs_of(ARRAYS) if spec.name == name)
        entries[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [place, place + len(data)],
        }
        place, body = place + len(data), body + data
    (tmp_path / "b.safetensors").write_bytes(header(entries, body))
    for name in ("a", "b"):
        with TensorFile(tmp_path / f"{name}.safetensors") as file:
            for start in range(0, len(content), 3):
                for size in (0, 1, 9, len(content) - start):
                    size = min(size, len(content) - start)
                    assert file.read_range(start, size) == content[start : start + size]


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path):
    tensor_files.save(tmp_path / "a.safetensors", ARRAYS)
    before = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(TypeError):
        tensor_files.save(tmp_path / "a.safetensors", ARRAYS, {"plan": object()})
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def header(entries, content=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 4) + b"{{{{",
        header([1, 2]),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234567"),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"12345678"),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        header({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, b"12345678"),
        header({"a": {"dtype": "F32"}}),
        header({}),
    ],
    ids=[
        "empty",
        "short",
        "huge header",
        "no json",
        "no object",
        "truncated",
        "wrong size",
        "offset",
        "shape",
        "dtype",
        "no shape",
        "nothing",
    ],
)
def test_a_file_that_is_not_whole_is_refused_by_name(tmp_path, content):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"bad\.safetensors: not a whole safetensors file of weights"
    ):
        TensorFile(tmp_path / "bad.safetensors")


_HEADER = {
    "__metadata__": {"plan": "{}"},
    "a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [], "data_offsets": [8, 12]},
}


@pytest.mark.parametrize("place", wrong_values.places(_HEADER), ids=wrong_values.named)
def test_whatever_a_header_says_the_file_is_read_or_refused_by_name(tmp_path, place):
    path = tmp_path / "bad.safetensors"
    refused = 0
    for entries in wrong_values.replaced(_HEADER, place):
        path.write_bytes(header(entries, bytes(12)))
        try:
            with TensorFile(path) as file:
                assert sum(spec.nbytes for spec in file.specs) <= 12
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{path}: not a whole safetensors file")
    assert refused or place[0] == "__metadata__"


def test_a_file_with_a_known_header_is_still_measured_and_shares_nothing(tmp_path):
    tensor_files.save(tmp_path / "a", ARRAYS, {"round": "3"})
    with TensorFile(tmp_path / "a") as file:
        file.metadata["round"] = "4"
    with TensorFile(tmp_path / "a") as file:
        assert file.metadata == {"round": "3"}
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"b: not a whole safetensors file.*should take"):
        TensorFile(tmp_path / "b")


def test_a_large_header_is_read_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_SMALL_HEADER", 10)
    monkeypatch.setattr(tensor_files, "_remembered", None)
    tensor_files.save(tmp_path / "a", ARRAYS)
    equal(tensor_files.load(tmp_path / "a")[0], ARRAYS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        TensorFile(tmp_path / "none.safetensors")


@pytest.fixture
def model(tmp_path):
    toy.write_initial(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def failing(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("call", ["pread", "preadv"])
def test_a_read_that_fails_names_its_file(model, monkeypatch, call):
    with tensor_files.TensorFile(model) as file:
        monkeypatch.setattr(tensor_files.os, call, failing)
        with pytest.raises(OSError, match=r"Input/output error: .*model\.safetensors"):
            file.read() if call == "preadv" else tensor_files.file_manifest(file)
