import numpy as np
import pytest
import tensorflow as tf

from c2fnas import keras_stack, named_weights
from c2fnas.allowed_values import LARGEST_PROXIMAL_WEIGHT
from c2fnas.losses import LossConfig
from c2fnas.proximal import ProximalTerm
from c2fnas.train_step import TrainStep, distribute
from runkit import randomness
from tests.c2fnas import tiny

MU = 0.3
KEPT = "end/classifier/bias"


@pytest.fixture(scope="module")
def network():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        return tiny.build(tiny.SHALLOW)


def received(network):
    """Weights some way off those of the network."""
    return {
        name: array + randomness.generator(5, name).normal(0, 0.1, array.shape).astype(np.float32)
        for name, array in named_weights.read(network).items()
    }


def gradients(network, loss_scale=1.0, **options):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        step = TrainStep(network, None, strategy, LossConfig(), 4, **options)
    step.set_received(received(network))
    parts, norm, _, found = step.gradients(distribute(tiny.batch(0), strategy), loss_scale)
    names = [n for n in network.variables if not n.startswith(options.get("frozen", ("-",)))]
    by_name = {name: g.numpy().astype(np.float64) for name, g in zip(names, found, strict=True)}
    return {name: float(part) for name, part in parts.items()}, float(norm), by_name


def test_the_gradient_gains_the_closed_form_of_the_term(network):
    weights, anchor = named_weights.read(network), received(network)
    plain_parts, _, plain = gradients(network)
    parts, norm, found = gradients(network, proximal_weight=MU, private={KEPT})
    assert "proximal" not in plain_parts
    away = {name: weights[name].astype(np.float64) - anchor[name] for name in weights}
    away[KEPT] = np.zeros_like(away[KEPT])  # no server sends it, so nothing pulls at it
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, plain[name] + MU * away[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[KEPT], plain[KEPT])
    squares = sum(float(np.square(part).sum()) for part in away.values())
    assert parts["proximal"] == pytest.approx(MU / 2 * squares, rel=1e-5)
    assert parts["total"] == pytest.approx(plain_parts["total"] + MU / 2 * squares, rel=1e-5)
    assert norm == pytest.approx(
        np.sqrt(sum(float(np.square(g).sum()) for g in found.values())), rel=1e-5
    )


def test_the_loss_scale_of_float16_does_not_act_on_the_term():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        mixed = tiny.build(tiny.SHALLOW, vae=None, precision="mixed_float16")
    weights, anchor = named_weights.read(mixed), received(mixed)
    parts, _, found = gradients(mixed, loss_scale=2.0**12, proximal_weight=1e4)
    away = {name: weights[name].astype(np.float64) - anchor[name] for name in weights}
    squares = sum(float(np.square(part).sum()) for part in away.values())
    rest = sum(float(np.square(found[name] - 1e4 * away[name]).sum()) for name in away)
    assert rest < 1e-4 * 1e8 * squares  # the loss's own gradient is small beside the term's
    assert parts["proximal"] == pytest.approx(5e3 * squares, rel=1e-5)


def test_frozen_weights_have_no_term_and_the_sum_is_clipped(network):
    weights, anchor = named_weights.read(network), received(network)
    frozen = tuple(name for name in weights if name != "end/classifier/kernel")
    parts, norm, found = gradients(network, proximal_weight=MU, frozen=frozen, clip_norm=1e-3)
    away = weights["end/classifier/kernel"].astype(np.float64) - anchor["end/classifier/kernel"]
    assert parts["proximal"] == pytest.approx(MU / 2 * np.square(away).sum(), rel=1e-5)
    (clipped,) = found.values()
    assert norm > 1e-3 and np.sqrt(np.square(clipped).sum()) == pytest.approx(1e-3, rel=1e-5)


def test_a_step_before_a_model_was_received_is_refused():
    trainer = tiny.trainer(tiny.SHALLOW, proximal_weight=MU)
    with pytest.raises(ValueError, match="proximal_weight is set and no model was received"):
        trainer.train(tiny.datasets, 1)
    with pytest.raises(ValueError, match="the received model has no stem"):
        trainer.set_received({})


@pytest.mark.parametrize("weight", [-0.1, 1.1e6, 1e39, float("inf"), float("nan")])
def test_an_invalid_weight_is_refused(weight):
    with pytest.raises(ValueError, match=r"proximal_weight is .*; expected a number up to"):
        tiny.config(proximal_weight=weight)


def test_the_largest_weight_keeps_the_step_finite():
    make = tf.keras.Variable if keras_stack.IS_KERAS_3 else tf.Variable
    away = make(np.full(1000, 1e3, np.float32))  # no weight moves that far in a round
    term = ProximalTerm(LARGEST_PROXIMAL_WEIGHT, {"w": away}, replicas=1)
    value, (gradient,) = term.added(["w"], [tf.zeros(1000)])
    assert float(value) == pytest.approx(LARGEST_PROXIMAL_WEIGHT / 2 * 1e9)
    assert np.isfinite(tf.linalg.global_norm([gradient]))
