"""The system names no file in an error about a descriptor; the error that a person reads does."""

import errno
import os

import pytest

from federated.tensors import codec, partial_file, tensor_files
from federated.tensors.partial_file import PartialModel
from tests.federated import toy


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


@pytest.mark.parametrize("call", ["pread", "pwrite", "ftruncate", "fsync"])
def test_a_transfer_that_fails_names_its_file(model, tmp_path, monkeypatch, call):
    def receive():
        with (
            tensor_files.TensorFile(model) as file,
            PartialModel(
                tmp_path / "incoming.safetensors", tensor_files.file_manifest(file), {}
            ) as partial,
        ):
            for chunk in list(codec.chunks(file, partial.missing(), transport="raw")):
                partial.put(chunk)
            partial.finish()

    original = getattr(os, call)

    def on_incoming(descriptor, *given):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("incoming.safetensors"):
            failing()
        return original(descriptor, *given)

    monkeypatch.setattr(partial_file.os, call, on_incoming)
    with pytest.raises(OSError, match=r"Input/output error.*incoming\.safetensors"):
        receive()
    monkeypatch.undo()
    receive()
