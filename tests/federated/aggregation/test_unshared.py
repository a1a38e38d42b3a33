import itertools

import numpy as np
import pytest

from federated.aggregation.unshared import CompletingSink
from federated.tensors import tensor_files
from federated.tensors.tensor_files import TensorFile, TensorFileWriter, TensorSelection
from federated.tensors.weights import CHUNK_BYTES, TensorSpec, canonical

ARRAYS = {
    "a": np.float64([1, 2, 3]),
    "b": np.arange(300_000, dtype=np.float32),  # more than a chunk
    "c": np.zeros((0, 4), np.float32),
    "d": np.float32(7).reshape(()),
    "e": np.float16([1, 2]),
}


@pytest.fixture
def model(tmp_path):
    tensor_files.save(tmp_path / "model", ARRAYS)
    with TensorFile(tmp_path / "model") as file:
        yield file


SHARED = [
    names for count in range(1, len(ARRAYS) + 1) for names in itertools.combinations(ARRAYS, count)
]


@pytest.mark.parametrize("shared", SHARED, ids=",".join)
def test_the_result_has_new_shared_arrays_and_the_others_as_before(model, shared, tmp_path):
    expected = {n: np.asarray(array + (n in shared), array.dtype) for n, array in ARRAYS.items()}
    tensor_files.save(tmp_path / "shared", {name: expected[name] for name in shared})
    with (
        TensorFile(tmp_path / "shared") as given,
        TensorFileWriter(tmp_path / "whole", model.specs, {}) as writer,
    ):
        sink = CompletingSink(writer, model, shared)
        for start in range(0, given.nbytes, 10_007):
            sink.write(given.read_range(start, min(10_007, given.nbytes - start)))
        sink.finish()
        writer.finish()
    found, _ = tensor_files.load(tmp_path / "whole")
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("shared", SHARED, ids=",".join)
def test_a_selection_reads_as_a_file_of_these_arrays_alone(model, shared, tmp_path):
    tensor_files.save(tmp_path / "alone", {name: ARRAYS[name] for name in shared})
    selection = TensorSelection(model, shared)
    with TensorFile(tmp_path / "alone") as alone:
        assert (selection.specs, selection.nbytes) == (alone.specs, alone.nbytes)
        for start in range(0, alone.nbytes, 99_991):
            size = min(99_991, alone.nbytes - start)
            assert selection.read_range(start, size) == alone.read_range(start, size)


def test_no_more_than_a_chunk_of_what_is_not_shared_is_in_memory():
    class Model:
        specs = canonical(TensorSpec(name, "F32", (5 * 2**18 + 1,)) for name in "abc")

        def read_bytes(self, spec, offset, size):
            assert size <= CHUNK_BYTES and offset + size <= spec.nbytes
            return bytes(size)

    class Sink:
        written = 0

        def write(self, data):
            self.written += len(data)

    model, sink = Model(), Sink()
    completing = CompletingSink(sink, model, {"b"})
    completing.write(bytes(model.specs[1].nbytes))
    completing.finish()
    assert sink.written == sum(spec.nbytes for spec in model.specs)


def test_more_bytes_than_the_shared_arrays_have_are_refused(model, tmp_path):
    with TensorFileWriter(tmp_path / "whole", model.specs, {}) as writer:
        sink = CompletingSink(writer, model, {"a"})
        with pytest.raises(ValueError, match="more bytes came"):
            sink.write(bytes(25))


def test_a_selection_of_an_array_that_the_file_lacks_is_refused(model):
    with pytest.raises(ValueError, match="has no tensor z"):
        TensorSelection(model, {"a", "z"})
