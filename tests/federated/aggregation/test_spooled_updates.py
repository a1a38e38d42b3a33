import numpy as np
import pytest

from federated.aggregation import spooled_updates
from federated.rounds.rounds import Update
from federated.tensors import tensor_files, weights
from federated.tensors.tensor_files import TensorFile

ARRAYS = {
    "w": np.random.default_rng(5).normal(size=300_000).astype(np.float32),
    "b": np.float64([0.5, 2.0]),
}  # two chunks


@pytest.fixture
def spooled(tmp_path):
    """Two updates in files: all weights as above, and three times that."""
    updates = {}
    for site, factor, examples in (("C1", 1, 30), ("C2", 3, 10)):
        path = tmp_path / f"{site}.safetensors"
        sha256 = tensor_files.save(
            path, {name: array * array.dtype.type(factor) for name, array in ARRAYS.items()}
        )
        updates[path] = Update(site, 1, examples, sha256)
    return updates


def spoil(path):
    with open(path, "r+b") as stream:
        stream.seek(-1000, 2)
        stream.write(b"\x00\x00\x80\x3f")


def average(spooled, target, **named):
    return spooled_updates.average(
        spooled, target, weights.specs_of(ARRAYS), {"round": "1"}, **named
    )


@pytest.mark.parametrize("verified", [0, 1, 2])
def test_the_mean_is_the_same_whether_or_not_files_are_checked(spooled, tmp_path, verified):
    manifest = average(spooled, tmp_path / "mean", verified=list(spooled)[:verified])
    arrays, metadata = tensor_files.load(tmp_path / "mean")
    assert manifest == weights.manifest_of(arrays) and metadata == {"round": "1"}
    for name, array in ARRAYS.items():  # (30 + 3 * 10) / 40 = 1.5
        np.testing.assert_allclose(arrays[name], 1.5 * array, rtol=1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_a_corrupt_update_is_named_and_the_target_stays_as_it_was(spooled, tmp_path, number):
    path = list(spooled)[number]
    spoil(path)
    target = tmp_path / "mean"
    target.write_bytes(b"before")
    with pytest.raises(spooled_updates.CorruptUpdate) as caught:
        average(spooled, target, verified=[other for other in spooled if other != path])
    assert caught.value.update == spooled[path]
    assert target.read_bytes() == b"before" and not list(tmp_path.glob(".partial*"))


def test_a_verified_update_is_not_hashed_again(spooled, tmp_path):
    path = next(iter(spooled))
    spoil(path)  # which therefore shows in the mean
    average(spooled, tmp_path / "mean", verified=spooled)
    with TensorFile(path) as held, TensorFile(tmp_path / "mean") as mean:
        assert held.nbytes == mean.nbytes
    arrays, _ = tensor_files.load(tmp_path / "mean")
    assert (np.abs(arrays["w"] - 1.5 * ARRAYS["w"]) > 1e-3).sum() == 1
