import dataclasses

import numpy as np
import pytest

from federated.aggregation import spooled_updates
from federated.aggregation.fedavg import FedAvg
from federated.aggregation.fedavgm import FedAvgM
from federated.aggregation.rules import RULES
from federated.aggregation.spooled_updates import StoredFile, Targets
from federated.rounds.rounds import Update
from federated.tensors import tensor_files, weights
from tests.federated import manifests

ARRAYS = {
    "w": np.random.default_rng(5).normal(size=300_000).astype(np.float32),
    "b": np.float64([0.5, 2.0]),
}  # two chunks


@pytest.fixture
def spooled(tmp_path):
    """Updates in files: all weights as above, three times and one and a half times that."""
    updates = {}
    for site, factor, examples in (("C1", 1, 30), ("C2", 3, 10), ("C3", 1.5, 24)):
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


@dataclasses.dataclass
class Files:
    """Global model 0, and the names of the files to write."""

    targets: Targets
    model: StoredFile


@pytest.fixture
def store(tmp_path):
    arrays = {name: np.full_like(array, 2) for name, array in ARRAYS.items()}
    sha256 = tensor_files.save(tmp_path / "round_0", arrays)
    return Files(
        Targets(tmp_path / "round_1", tmp_path / "state_1"),
        StoredFile(tmp_path / "round_0", sha256),
    )


def aggregate(spooled, store, *, rule=None, **named):
    return spooled_updates.aggregate_spooled(
        rule or FedAvg(),
        spooled,
        store.targets,
        weights.specs_of(ARRAYS),
        {"round": "1"},
        model=store.model,
        **named,
    )


@pytest.mark.parametrize("verified", [0, 1, 3])
def test_the_mean_is_the_same_whether_or_not_files_are_checked(spooled, store, verified):
    manifest, state = aggregate(spooled, store, verified=list(spooled)[:verified])
    arrays, metadata = tensor_files.load(store.targets.model)
    assert manifest == manifests.manifest_of(arrays) and metadata == {"round": "1"}
    assert state is None and not store.targets.state.exists()
    for name, array in ARRAYS.items():  # (30 + 3 * 10 + 1.5 * 24) / 64 = 1.5
        np.testing.assert_allclose(arrays[name], 1.5 * array, rtol=1e-6)


@pytest.mark.parametrize("rule", [rule() for rule in RULES.values()], ids=str)
@pytest.mark.parametrize("number", [0, 2])
def test_a_corrupt_update_is_named_and_the_targets_stay_as_they_were(
    spooled, store, tmp_path, number, rule
):
    path = list(spooled)[number]
    spoil(path)
    targets = (store.targets.model, store.targets.state)
    for target in targets:
        target.write_bytes(b"before")
    with pytest.raises(spooled_updates.CorruptUpdate) as caught:
        others = [other for other in spooled if other != path]
        aggregate(spooled, store, rule=rule, verified=others)
    assert caught.value.update == spooled[path]
    assert all(target.read_bytes() == b"before" for target in targets)
    assert not list(tmp_path.glob(".partial*"))


def test_a_verified_update_is_not_hashed_again(spooled, store):
    path = next(iter(spooled))
    spoil(path)  # which therefore shows in the mean
    aggregate(spooled, store, verified=spooled)
    arrays, _ = tensor_files.load(store.targets.model)
    assert (np.abs(arrays["w"] - 1.5 * ARRAYS["w"]) > 1e-3).sum() == 1


def test_fedavg_opens_neither_the_model_before_nor_a_state(spooled, store):
    store.model.path.unlink()
    aggregate(spooled, store, state=StoredFile(store.targets.state, "0" * 64))
    assert not store.targets.state.exists()


def test_the_state_of_a_rule_is_written_beside_the_model_and_read_in_the_next_round(spooled, store):
    rule = FedAvgM(momentum=0.5)
    _, manifest = aggregate(spooled, store, rule=rule)
    arrays, metadata = tensor_files.load(store.targets.state)
    assert metadata == {"format": "1", "rule": "fedavgm:momentum=0.5,learning_rate=1.0"}
    assert manifest == manifests.manifest_of(arrays)
    velocity = arrays["state"][:2, 0]  # of "b", the widest, which comes first
    np.testing.assert_array_equal(velocity, 2.0 - 1.5 * ARRAYS["b"])
    state = store.targets.state.rename(store.targets.state.with_name("state_0"))
    aggregate(spooled, store, rule=rule, state=StoredFile(state, manifest.sha256))
    later, _ = tensor_files.load(store.targets.state)
    np.testing.assert_array_equal(later["state"][:2, 0], 1.5 * velocity)


@pytest.mark.parametrize("harm", ["gone", "changed", "of another format"])
@pytest.mark.parametrize("of", ["model", "state"])
def test_a_damaged_file_of_the_store_is_named_and_nothing_is_written(spooled, store, harm, of):
    _, manifest = aggregate(spooled, store, rule=FedAvgM())
    state = StoredFile(store.targets.state.rename(store.targets.state.with_name("state_0")), "")
    state = StoredFile(state.path, manifest.sha256)
    store.targets.model.unlink()
    damaged = store.model if of == "model" else state
    if harm == "gone":
        damaged.path.unlink()
    elif harm == "changed":
        spoil(damaged.path)
    elif of == "state":
        arrays, metadata = tensor_files.load(damaged.path)
        tensor_files.save(damaged.path, arrays, {**metadata, "format": "2"})
    else:
        return
    with pytest.raises(spooled_updates.DamagedStore, match=damaged.path.name) as caught:
        aggregate(spooled, store, rule=FedAvgM(), state=state)
    assert isinstance(caught.value, OSError)  # the server waits and tries again
    assert not store.targets.model.exists() and not store.targets.state.exists()


def test_one_update_may_stand_for_all_of_them(spooled, store):
    seen = {}

    def combine(sources, model):
        seen.update({site: examples for site, (_, examples) in sources.items()})
        return model, sum(seen.values())  # as if nobody had changed anything

    aggregate(spooled, store, verified=frozenset(spooled), combine=combine)
    found, _ = tensor_files.load(store.targets.model)
    assert seen == {"C1": 30, "C2": 10, "C3": 24}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], np.full_like(array, 2))
