"""All weights as one vector, computed on the processor, whose operations are those of a GPU."""

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import adam, checkpoints, gpus, named_weights, training, weight_vector
from c2fnas.losses import LossConfig
from c2fnas.train_step import TrainStep, distribute
from tests.c2fnas import tiny


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "is_used", lambda: True)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_losses_gradients_and_steps_are_those_of_single_weights(precision):
    """SGD, because another optimizer than Adam takes the gradients one by one again."""
    strategy = tf.distribute.get_strategy()
    network = tiny.build(tiny.SHALLOW, precision=precision)
    start = {name: variable.numpy() for name, variable in network.variables.items()}
    optimizer = tf.keras.optimizers.SGD(1.0)
    optimizer.build(list(network.variables.values()))
    vectors = weight_vector.vectors(network)
    assert len(vectors) == 1 and sorted(vectors[0].names) == sorted(network.variables)
    results = []
    for own in ((), vectors):
        named_weights.assign(network, start)
        step = TrainStep(network, optimizer, strategy, LossConfig(kl=50.0), 4, vectors=own)
        parts, norm, samples, gradients = step.gradients(
            distribute(tiny.batch(0), strategy), 2.0**10
        )
        assert len(gradients) == (1 if own else len(start))
        step.apply(gradients)
        moved = {name: start[name] - v.numpy() for name, v in network.variables.items()}
        values = {name: float(part) for name, part in parts.items()}
        results.append((values, float(norm), samples, moved))
    single, together = results
    assert together[0] == pytest.approx(single[0], rel=1e-6)
    assert together[1] == pytest.approx(single[1], rel=1e-5)
    np.testing.assert_allclose(together[2], single[2], rtol=1e-6)
    share = 1e-4 if precision == "float32" else 2e-3
    for name, expected in single[3].items():
        atol = share * np.abs(expected).max() + 1e-6  # the weights' own rounding
        np.testing.assert_allclose(together[3][name], expected, rtol=0, atol=atol, err_msg=name)
    # The layers have their own variables back.
    for name, (layer, attribute) in network.owners.items():
        assert getattr(layer, attribute) is network.variables[name]


def test_norms_of_the_library_take_their_parts_too():
    network = tiny.build(tiny.SHALLOW, vae=None, instance_norm="library")
    image = tf.constant(tiny.batch(0)["image"], tf.float32)
    vector = weight_vector.WeightVector(network, list(network.variables))
    expected = network.train_outputs(image)["logits"].numpy()
    with vector.in_use(vector.read(), 4):
        np.testing.assert_array_equal(network.train_outputs(image)["logits"], expected)
    with vector.in_use(0.0 * vector.read(), 4):
        assert not network.train_outputs(image)["logits"].numpy().any()


def test_a_single_sample_has_the_same_gradients():
    network = tiny.build(tiny.SHALLOW, vae=None)
    vector = weight_vector.WeightVector(network, list(network.variables))
    image = tf.constant(tiny.batch(0)["image"][:1], tf.float32)
    found = []
    for samples in (1, 2):
        weights = vector.read()
        with tf.GradientTape() as tape:
            tape.watch(weights)
            with vector.in_use(weights, samples):
                logits = network.train_outputs(tf.repeat(image, samples, axis=0))["logits"]
            total = tf.reduce_mean(tf.square(logits))
        found.append(tape.gradient(total, weights).numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5 * np.abs(found[0]).max())


def test_adams_update_is_that_of_single_weights():
    network = tiny.build(tiny.SHALLOW, vae=None)
    vectors = weight_vector.vectors(network)
    start = {name: v.numpy() for name, v in network.variables.items()}
    results = []
    for optimizer in (
        adam.optimizer(0.01, network.variables),
        adam.optimizer(0.01, network.variables, vectors=vectors),
    ):
        rng = np.random.default_rng(0)
        for name, variable in network.variables.items():
            variable.assign(start[name])
        for _ in range(3):
            gradients = {n: rng.normal(size=v.shape).astype(np.float32) for n, v in start.items()}
            if isinstance(optimizer, adam.VectorAdam):
                (vector,) = vectors
                adam.apply_vectors(optimizer, [vector.joined([gradients[n] for n in vector.names])])
            else:
                adam.apply_summed_gradients(
                    optimizer, [gradients[n] for n in start], list(network.variables.values()), 1
                )
        state = adam.state(optimizer, network.variables)
        results.append({**state, **{n: v.numpy() for n, v in network.variables.items()}})
    single, together = results
    assert single.keys() == together.keys() and together["iterations"] == 3
    for name, array in single.items():
        np.testing.assert_allclose(together[name], array, rtol=1e-6, atol=1e-8, err_msg=name)


def trainer(**changes):
    with (strategy := tf.distribute.MirroredStrategy(["CPU:0"])).scope():
        network = tiny.build(tiny.SHALLOW, **changes.pop("network", {}))
    return training.Trainer(network, tiny.config(**changes), strategy)


def test_a_checkpoint_goes_on_with_and_without_vectors(tmp_path, monkeypatch):
    with_vectors = trainer(network={"vae": None})
    assert isinstance(with_vectors._optimizer, adam.VectorAdam)
    with_vectors.train(tiny.datasets, 2)
    checkpoints.save(tmp_path, with_vectors, {})
    monkeypatch.setattr(gpus, "is_used", lambda: False)
    without = trainer(network={"vae": None})
    assert not isinstance(without._optimizer, adam.VectorAdam)
    assert checkpoints.load(tmp_path, without) == {} and without.step == 2
    expected, found = with_vectors.state(), without.state()
    assert list(expected) == list(found)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert array.dtype == found[name].dtype
    assert np.abs(found["optimizer/stem/first/kernel/v"]).max() > 0
    without.train(tiny.datasets, 3)
    monkeypatch.setattr(gpus, "is_used", lambda: True)
    with_vectors.restore(without.state())
    for name, array in without.state().items():
        np.testing.assert_array_equal(with_vectors.state()[name], array)


def test_rates_frozen_weights_clipping_and_the_proximal_term_stay_what_they_are():
    settings = {"frozen": ("stem/",), "vae_rate": 0.25, "clip_norm": 1e-3, "proximal_weight": 0.5}
    one = trainer(**settings)
    assert {vector.share for vector in one._optimizer.vectors} == {1.0, 0.25}
    before = one.weights()
    one.set_received(before)
    values = []
    one.train(tiny.datasets, 1, on_step=lambda step, found: values.append(found))
    assert values[0]["gradient_norm"] > 1e-3 and values[0]["proximal"] == 0.0
    for name, array in one.weights().items():
        moved = np.abs(array - before[name]).max()
        if name.startswith("stem/"):
            assert moved == 0.0
        else:  # the first step of Adam is the rate of its group, where a gradient is not 0
            rate = 0.0025 if name.startswith("vae/") else 0.01
            assert moved == pytest.approx(rate, rel=0.02) or moved < rate
    state = one.state()
    assert not state["optimizer/stem/first/kernel/m"].any()
    clipped = sum(
        np.square(array.astype(np.float64)).sum()
        for name, array in state.items()
        if name.startswith("optimizer/") and name.endswith("/m")
    )
    assert np.sqrt(clipped) == pytest.approx(0.1 * 1e-3, rel=1e-4)  # a tenth of the gradient


def test_a_step_that_overflows_is_left_out():
    half = trainer(network={"vae": None, "precision": "mixed_float16"})
    half._loss_scale = 1e38
    before = half.state()
    assert half.train(tiny.datasets, 1)["skipped_steps"] == 1.0
    for name, array in half.state().items():
        if name not in ("step", "loss_scale/value"):
            np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_processor_and_a_supernet_have_no_vectors(monkeypatch):
    network = tiny.build(tiny.SHALLOW, vae=None)
    assert weight_vector.vectors(network)
    network.alternatives = ("as a supernet",)
    assert weight_vector.vectors(network) == ()
    network.alternatives = ()
    monkeypatch.setattr(gpus, "is_used", lambda: False)
    assert weight_vector.vectors(network) == ()
