"""Rules over whole models in files: against NumPy, for any slab size, and in bounded memory."""

import contextlib
import dataclasses
import itertools
import tracemalloc
import warnings

import numpy as np
import pytest

from federated import errors, simulation
from federated.aggregation import rules, slabs
from federated.aggregation.fedavg import FedAvg
from federated.aggregation.fedavgm import FedAvgM
from federated.aggregation.rule import Aggregated, AggregationRule
from federated.aggregation.rules import RULES
from federated.tensors import tensor_files, weights
from federated.tensors.tensor_files import TensorFile, TensorFileWriter
from federated.tensors.weights import CHUNK_BYTES, TensorSpec
from tests.federated import toy
from tests.federated.aggregation import reference

EXAMPLES = {"C1": 252, "C2": 286, "C3": 7, "C4": 91}
SMALL = {"kernel": ((3, 50), "f4"), "half": ((9,), "f2"), "wide": ((4,), "f8")}
# 1.2, 2.4 and 0.6 MB: dtypes meet inside of chunks.
LARGE = {"wide": ((150_001,), "f8"), "kernel": ((600_007,), "f4"), "half": ((300_003,), "f2")}


def model(seed, shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, (shape, dtype) in shapes.items()}


class Files:
    """Models in files of one folder; closes what it opened."""

    def __init__(self, folder):
        self._folder, self._numbers, self._open = folder, itertools.count(), []

    def of(self, arrays):
        path = self._folder / f"{next(self._numbers)}.safetensors"
        tensor_files.save(path, arrays)
        self._open.append(TensorFile(path))
        return self._open[-1]

    def aggregated(self, rule, updates, *, before=None, state=None):
        """Returns the new model, and the rule's state as an open file or None."""
        specs = next(iter(updates.values()))[0].specs
        kept = slabs.state_specs(rule, specs)
        target, state_target = (self._folder / f"{next(self._numbers)}" for _ in range(2))
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(TensorFileWriter(target, specs, {}))
            state_writer = (
                stack.enter_context(TensorFileWriter(state_target, kept, {})) if kept else None
            )
            slabs.aggregate(
                rule, updates, writer, model=before, state=state, state_sink=state_writer
            )
            writer.finish()
            if state_writer is None:
                return tensor_files.load(target)[0], None
            state_writer.finish()
        self._open.append(TensorFile(state_target))
        return tensor_files.load(target)[0], self._open[-1]

    def close(self):
        for file in self._open:
            file.close()


@pytest.fixture
def files(tmp_path):
    made = Files(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("slab_bytes", [40, 2**18])
def test_fedavg_of_files_is_numpys_weighted_average(files, shapes, slab_bytes, monkeypatch):
    if shapes is LARGE and slab_bytes == 40:
        slab_bytes = 2**16 + 8  # the last slab of a chunk is short
    monkeypatch.setattr(slabs, "SLAB_BYTES", slab_bytes)
    models = {site: model(seed, shapes) for seed, site in enumerate(EXAMPLES)}
    updates = {site: (files.of(models[site]), examples) for site, examples in EXAMPLES.items()}
    result, state = files.aggregated(FedAvg(), updates)
    assert state is None
    for name, (_, dtype) in shapes.items():
        stacked = np.stack([models[site][name].astype("f8") for site in EXAMPLES])
        expected = np.average(stacked, axis=0, weights=list(EXAMPLES.values()))
        assert result[name].dtype == dtype
        tolerance = {"f2": 1e-3, "f4": 1e-6, "f8": 1e-14}[dtype]
        np.testing.assert_allclose(result[name], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["small", "large"])
def test_fedavgm_over_rounds_is_the_recursion_in_numpy(files, shapes, monkeypatch):
    """Models of several dtypes, over three rounds, with the state carried on in files."""
    monkeypatch.setattr(slabs, "SLAB_BYTES", 104 if shapes is SMALL else 2**18)
    rule = FedAvgM(momentum=0.75, learning_rate=0.5)
    current, state = model(99, shapes), None
    velocity = {name: np.zeros(shape) for name, (shape, _) in shapes.items()}
    for round_number in range(3):
        models = {site: model(10 * round_number + n, shapes) for n, site in enumerate(EXAMPLES)}
        updates = {site: (files.of(models[site]), EXAMPLES[site]) for site in EXAMPLES}
        result, state = files.aggregated(rule, updates, before=files.of(current), state=state)
        for name in shapes:
            total = np.zeros(shapes[name][0])
            for site, examples in EXAMPLES.items():
                total = total + np.float64(examples) * models[site][name].astype("f8")
            mean = total / sum(EXAMPLES.values())
            velocity[name] = 0.75 * velocity[name] + (current[name].astype("f8") - mean)
            expected = current[name].astype("f8") - 0.5 * velocity[name]
            np.testing.assert_array_equal(result[name], expected.astype(shapes[name][1]))
        current = result
    # The state's file: one float64 for every value of the model, in canonical order.
    order = [spec.name for spec in weights.specs_of(current)]
    expected = np.concatenate([velocity[name].reshape(-1) for name in order])
    np.testing.assert_array_equal(state.read()["state"], expected[:, None])


@pytest.mark.parametrize(
    ("text", "shapes", "num_rounds"),
    [
        *[(text, SMALL, 4) for text in reference.TEXTS],
        ("fedadam", LARGE, 2),  # two numbers for each value of several chunks
        ("median", LARGE, 2),  # slabs that depend on the number of sites
    ],
)
def test_every_rule_over_rounds_agrees_with_numpy(files, text, shapes, num_rounds, monkeypatch):
    """Five sites, models of several dtypes, the state carried on in files."""
    monkeypatch.setattr(slabs, "SLAB_BYTES", 104 if shapes is SMALL else 2**18)
    examples = {**EXAMPLES, "C5": 30}
    first, state = model(99, shapes), None
    rounds = [[model(10 * number + n, shapes) for n in range(5)] for number in range(num_rounds)]
    current, expected = first, reference.run(text, first, rounds, list(examples.values()))
    for sent, wanted in zip(rounds, expected, strict=True):
        updates = {
            site: (files.of(update), examples[site])
            for site, update in zip(examples, sent, strict=True)
        }
        before = files.of(current)
        current, state = files.aggregated(rules.parse(text), updates, before=before, state=state)
        for name, (_, dtype) in shapes.items():
            assert current[name].dtype == dtype
            tolerance = {"f2": 4e-3, "f4": 1e-6, "f8": 1e-14}[dtype]
            np.testing.assert_allclose(current[name], wanted[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", sorted(RULES))
def test_slab_size_and_order_of_arrival_change_no_bit(files, name, monkeypatch):
    rule, before = RULES[name](), files.of(model(7, SMALL))
    held = {site: (files.of(model(n, SMALL)), EXAMPLES[site]) for n, site in enumerate(EXAMPLES)}
    results = set()
    for order, slab_bytes in itertools.product(
        [list(held), list(reversed(held)), ["C3", "C1", "C4", "C2"]], [8, 48, 2**18]
    ):
        monkeypatch.setattr(slabs, "SLAB_BYTES", slab_bytes)
        updates = {site: held[site] for site in order}
        result, state = files.aggregated(rule, updates, before=before)
        kept = state.read()["state"].tobytes() if state else b""
        results.add(b"".join(array.tobytes() for array in result.values()) + kept)
    assert len(results) == 1


class _Endless:
    """A model of any size whose bytes are made on demand."""

    def __init__(self, specs):
        self.specs = specs

    def read_range(self, start, size):
        return bytes(size)


class _Counting:
    written = 0

    def write(self, data):
        self.written += len(data)


@pytest.mark.parametrize("name", sorted(RULES))
def test_memory_grows_with_neither_model_nor_number_of_sites(name):
    rule = RULES[name]()

    def peak(values, sites):
        source = _Endless((TensorSpec("w", "F32", (values,)),))
        state = _Endless(slabs.state_specs(rule, source.specs))
        sink, state_sink = _Counting(), _Counting()
        updates = {f"S{number:03d}": (source, 1) for number in range(sites)}
        tracemalloc.start()
        try:
            slabs.aggregate(rule, updates, sink, model=source, state=state, state_sink=state_sink)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert sink.written == 4 * values
            assert state_sink.written == 8 * values * len(rule.init(source.specs))

    # Six chunks in memory, each with its state of float64, and 16 MiB of the workers' own arrays. A
    # bound measured with a small model would depend on how the threads took turns.
    bound = 6 * CHUNK_BYTES * (1 + 2 * len(rule.init(()))) + 16 * 2**20
    few = max(2, rule.min_updates)
    assert peak(64 * 2**18, few) < bound and peak(8 * 2**18, 40) < bound


def test_updates_that_do_not_fit_each_other_are_not_broadcast(files):
    updates = {"a": (files.of({"w": np.zeros(2)}), 1), "b": (files.of({"w": np.zeros(1)}), 1)}
    with pytest.raises(
        errors.IncompatibleWeights, match=r"'b' .* w: expected F64\[2\], received F64\[1\]"
    ):
        slabs.aggregate(FedAvg(), updates, _Counting())


def test_fewer_updates_than_a_rule_can_work_with_are_not_aggregated(files):
    updates = {site: (files.of({"w": np.zeros(1)}), 1) for site in ("a", "b")}
    with pytest.raises(ValueError, match=r"median', which needs at least 3 updates .* there are 2"):
        slabs.aggregate(rules.parse("median"), updates, _Counting())


def test_without_updates_or_training_cases_nothing_is_aggregated(files):
    with pytest.raises(ValueError, match="no update"):
        slabs.aggregate(FedAvg(), {}, _Counting())
    with pytest.raises(ValueError, match="'a' has num_examples 0"):
        slabs.aggregate(FedAvg(), {"a": (files.of({"w": np.zeros(1)}), 0)}, _Counting())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("rule", ["fedavgm:learning_rate=1e300", "fedadam:learning_rate=1e300"])
def test_a_rule_that_overflows_is_refused_by_name(tmp_path, rule, dtype):
    files = Files(tmp_path)
    shapes = {"first": ((5,), "f4"), "last": ((3,), dtype)}
    before = {name: np.zeros(shape, kind) for name, (shape, kind) in shapes.items()}
    update = {name: np.full(shape, 1e4, kind) for name, (shape, kind) in shapes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the error is all that is said
        with pytest.raises(slabs.NotFinite, match=r"learning_rate=1e\+300.*not finite"):
            files.aggregated(
                rules.parse(rule), {"C1": (files.of(update), 1)}, before=files.of(before)
            )
    files.close()


def own_rule(aggregate, **state):
    """Returns a rule as somebody outside this project may write it."""
    members = {"name": "own", "aggregate": aggregate, "init": lambda self, specs: state}
    return dataclasses.dataclass(frozen=True)(type("Own", (AggregationRule,), members))()


def mean(slab):
    return np.mean([update.astype(np.float64) for update in slab.updates], axis=0)


@pytest.mark.parametrize(
    ("aggregate", "state", "found"),
    [
        (lambda self, slab: mean(slab), {}, "an object of type ndarray"),
        (lambda self, slab: None, {}, "an object of type NoneType"),
        (lambda self, slab: (mean(slab), {}), {}, "an object of type tuple"),
        (lambda self, slab: Aggregated(mean(slab)[:1]), {}, r"model of shape \(1,\)"),
        (lambda self, slab: Aggregated(mean(slab).sum()), {}, r"model of shape \(\)"),
        (lambda self, slab: Aggregated(mean(slab)), {"v": 0.0}, "a state with the names none"),
        (lambda self, slab: Aggregated(mean(slab), {"v": 1.0}), {}, "a state with the names 'v'"),
        (
            lambda self, slab: Aggregated(mean(slab), {"v": slab.state["v"][:1]}),
            {"v": 0.0},
            r"state 'v' of shape \(1,\)",
        ),
    ],
)
def test_a_rule_that_returns_something_else_is_named(files, aggregate, state, found):
    updates = {site: (files.of({"w": np.ones(7)}), 1) for site in ("a", "b")}
    expected = r"'own': aggregate returned {}; expected Aggregated\(model, state\), with 7 values"
    with pytest.raises(ValueError, match=expected.format(found)):
        files.aggregated(own_rule(aggregate, **state), updates)


def test_a_rule_that_iterates_twice_is_told_how_to_keep_the_updates(files):
    updates = {"a": (files.of({"w": np.ones(7)}), 1)}
    twice = own_rule(lambda self, slab: Aggregated(mean(slab) + mean(slab)))
    with pytest.raises(ValueError, match=r"'own' iterates .* a second time; set gathers_updates"):
        files.aggregated(twice, updates)


def test_a_rule_may_look_at_some_of_the_updates_only(tmp_path, monkeypatch):
    """The others are still checked against their digests."""
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))  # a simulation adds its rule
    first = own_rule(lambda self, slab: Aggregated(np.float64(next(iter(slab.updates)))))
    initial = toy.write_initial(tmp_path / "initial.safetensors")
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    done = simulation.run(trainers, initial, tmp_path / "run", num_rounds=2, rule=first)
    assert done.finished
    last = tensor_files.load(tmp_path / "run" / "server" / "global" / "round_002.safetensors")[0]
    expected = toy.INITIAL
    for number in (1, 2):
        expected = toy.ToyTrainer("C1").train(expected, number)[0]
    for name, array in expected.items():
        np.testing.assert_array_equal(last[name], array)
