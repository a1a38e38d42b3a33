import dataclasses
import errno
import os
import threading

import numpy as np
import pytest

from federated import errors
from federated.tensors import codec, partial_file, tensor_files
from federated.tensors.codec import Chunk
from federated.tensors.partial_file import PartialModel
from federated.tensors.tensor_files import TensorFile
from federated.tensors.weights import Declaration, TensorManifest, TensorSpec
from tests.federated import manifests

ARRAYS = {
    "a": np.arange(700_000, dtype=np.float32),
    "b": np.arange(100, dtype=np.float64),
    "c": np.array([0.5], np.float16),
}
MANIFEST = manifests.manifest_of(ARRAYS)  # three chunks


@pytest.fixture
def chunks(tmp_path):
    tensor_files.save(tmp_path / "whole.safetensors", ARRAYS)
    with TensorFile(tmp_path / "whole.safetensors") as file:
        return list(codec.chunks(file))


@pytest.fixture
def begin(tmp_path):
    held = []

    def open_(manifest=MANIFEST, metadata=None, **named):
        model = PartialModel(
            tmp_path / "partial.safetensors", manifest, metadata or {"site": "C1"}, **named
        )
        held.append(model)
        return model

    yield open_
    for model in held:
        model.close()


def test_chunks_may_arrive_in_any_order_and_twice(begin, chunks, tmp_path):
    model = begin()
    assert model.missing() == [0, 1, 2]
    for index in (2, 0, 2, 1):
        model.put(chunks[index])
    model.finish()
    arrays, metadata = tensor_files.load(tmp_path / "partial.safetensors")
    assert metadata == {"site": "C1"} and manifests.digest(arrays) == MANIFEST.sha256


@pytest.fixture
def model(tmp_path):
    tensor_files.save(tmp_path / "model.safetensors", ARRAYS)
    return tmp_path / "model.safetensors"


def failing(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


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


def test_after_a_failed_sync_nothing_counts_as_present(begin, chunks, monkeypatch):
    """The system then regards the data as written: another sync succeeds without them."""
    model = begin()
    for chunk in chunks:
        model.put(chunk)
    with monkeypatch.context() as disk:
        disk.setattr(partial_file.os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output error"):
            model.finish()
    model.finish()  # by another thread of the same transfer
    with pytest.raises(errors.DamagedTransfer, match="send the model again"):
        model.hand_over(lambda path: path)
    assert begin().missing() == [0, 1, 2]


def test_another_attempt_continues_with_the_chunks_that_are_present(begin, chunks):
    begin().put(chunks[0])
    begin().put(chunks[2])
    seen = []
    again = begin(look=lambda index, data: seen.append((index, len(data))))
    assert again.missing() == [1] and seen == [(0, 2**20), (2, MANIFEST.nbytes - 2**21)]
    with pytest.raises(errors.DamagedTransfer, match="1 of 3 chunks missing"):
        again.finish()
    again.put(chunks[1])
    again.finish()


def test_chunks_that_the_disk_corrupted_or_a_kill_cut_are_missing_again(begin, chunks, tmp_path):
    model = begin()
    for chunk in chunks:
        model.put(chunk)
    path = tmp_path / "partial.safetensors"
    content = bytearray(path.read_bytes())
    content[2**20 + 5000] ^= 1
    path.write_bytes(content[:-1])
    assert begin().missing() == [1, 2]


def test_a_file_of_another_model_is_overwritten(begin, chunks, tmp_path):
    begin().put(chunks[0])
    other = TensorManifest(Declaration([TensorSpec("z", "F32", (3,))]), bytes(32))
    assert begin(other).missing() == [0]
    assert begin().missing() == [0, 1, 2]


def test_nothing_of_a_longer_file_remains(begin, chunks, tmp_path):
    path = tmp_path / "partial.safetensors"
    path.write_bytes(b"\xff" * (MANIFEST.nbytes + 2**20))
    model = begin()
    assert model.missing() == [0, 1, 2]
    model.put(chunks[1])
    again = begin()  # as after a kill: what was there before is no piece of this model
    assert again.missing() == [0, 2]
    again.put(chunks[0])
    again.put(chunks[2])
    again.finish()
    whole = tmp_path / "expected.safetensors"
    tensor_files.save(whole, ARRAYS, {"site": "C1"})
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (lambda c: dataclasses.replace(c[0], index=1), "checksum of chunk 1"),
        (lambda c: Chunk(3, b""), "chunk 3 came, the model has 3"),
        (lambda c: Chunk(0, c[0].data[:-1] + b"\xff"), "checksum of chunk 0"),
        (lambda c: Chunk(0, c[0].data[:-4]), "are not its 1048576 bytes"),
    ],
    ids=["swapped", "beyond", "flipped", "short"],
)
def test_a_chunk_that_is_not_part_of_the_model_is_not_written(
    begin, chunks, tmp_path, chunk, message
):
    model = begin()
    before = (tmp_path / "partial.safetensors").read_bytes()
    with pytest.raises(errors.DamagedTransfer, match=message):
        model.put(chunk(chunks))
    assert (tmp_path / "partial.safetensors").read_bytes() == before and model.missing() == [
        0,
        1,
        2,
    ]


def test_a_huge_declaration_writes_nothing(begin, tmp_path):
    with pytest.raises(errors.IncompatibleWeights, match="4398046511104 bytes declared"):
        begin(TensorManifest(Declaration([TensorSpec("a", "F32", (2**40,))]), b""))
    assert not (tmp_path / "partial.safetensors").exists()


def test_two_transfers_at_once_fill_one_file(begin, chunks, tmp_path):
    models = [begin(), begin()]
    threads = [
        threading.Thread(target=lambda m=m, order=o: [m.put(c) for c in order])
        for m, o in zip(models, (chunks, chunks[::-1]), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    models[0].finish()
    assert (
        manifests.digest(tensor_files.load(tmp_path / "partial.safetensors")[0]) == MANIFEST.sha256
    )
    (tmp_path / "partial.safetensors").rename(
        tmp_path / "taken.safetensors"
    )  # as the first one does when it is whole
    models[1].finish()
    with pytest.raises(errors.DamagedTransfer, match="another transfer of the site came between"):
        models[1].hand_over(lambda path: path)


def test_a_transfer_that_filled_the_disk_continues_later(begin, chunks, monkeypatch):
    model, write, room = begin(), partial_file.os.pwrite, [2**19]

    def filling(file, data, at):
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = min(len(data), room[0])
        room[0] -= taken
        return write(file, data[:taken], at)

    with monkeypatch.context() as full:
        full.setattr(partial_file.os, "pwrite", filling)
        with pytest.raises(OSError, match="No space left"):
            model.put(chunks[0])
    assert begin().missing() == [0, 1, 2]
    for chunk in chunks:
        model.put(chunk)
    model.finish()


def test_a_file_that_could_not_be_kept_gets_its_name_back(begin, chunks, tmp_path):
    model = begin()
    for chunk in chunks:
        model.put(chunk)
    model.finish()

    def fail(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        model.hand_over(fail)
    assert not list(tmp_path.glob(".partial-*"))
    assert begin().missing() == []
    kept = model.hand_over(lambda path: path.rename(tmp_path / "kept.safetensors"))
    assert kept.exists()
    assert not list(tmp_path.glob("*partial*"))
