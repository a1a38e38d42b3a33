import json

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import gpus, losses, named_weights, train_step, training
from c2fnas.losses import LossConfig
from c2fnas.missing_labels import MissingLabels
from c2fnas.train_step import TrainStep, distribute, latent_noise
from tests import forked
from tests.c2fnas import tiny


@pytest.fixture(scope="module")
def stepped():
    """A network with plain SGD and one step of it.

    Returns:
      Network, batch, outputs before the step, loss parts of the step, weights before and after.
    """
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        network = tiny.build()
        optimizer = tf.keras.optimizers.SGD(0.1)
        optimizer.build(list(network.variables.values()))
    config = LossConfig(dice=0.7, cross_entropy=1.1, kl=20.0, reconstruction=0.3)
    batch = tiny.batch(0)
    noise = np.stack(
        [tf.random.stateless_normal((8,), seed).numpy() for seed in batch["sample_seed"]]
    )
    image = batch["image"].astype(np.float32)
    outputs = {
        name: np.asarray(value, np.float64)
        for name, value in network.train_outputs(image, noise).items()
    }
    before = {name: np.array(v.numpy()) for name, v in network.variables.items()}
    step = TrainStep(network, optimizer, strategy, config, 4)
    parts = step(distribute(batch, strategy))
    after = {name: np.array(v.numpy()) for name, v in network.variables.items()}
    return (
        network,
        batch,
        outputs,
        {name: float(value) for name, value in parts.items()},
        before,
        after,
    )


def test_loss_parts_are_those_of_numpy(stepped):
    _, batch, outputs, parts, _, _ = stepped
    exponent = np.exp(outputs["logits"])
    probabilities = exponent / exponent.sum(-1, keepdims=True)
    truth = np.eye(3)[batch["label"]]
    dice = 2 * (probabilities * truth).sum((1, 2, 3)) / (probabilities + truth).sum((1, 2, 3))
    mean, std = outputs["mean"], outputs["std"]
    expected = {
        "dice": 1 - dice.mean(),
        "cross_entropy": -np.log((probabilities * truth).sum(-1)).mean(),
        "kl": (mean**2 + std**2 - np.log(std**2) - 1).sum(-1).mean() / np.prod(tiny.PATCH),
        "reconstruction": np.square(
            outputs["reconstruction"] - batch["image"].astype(np.float64)
        ).mean(),
    }
    expected["total"] = (
        0.7 * expected["dice"]
        + 1.1 * expected["cross_entropy"]
        + 20.0 * expected["kl"]
        + 0.3 * expected["reconstruction"]
    )
    assert parts == pytest.approx(expected, rel=1e-4)


def test_one_sgd_step_is_minus_rate_times_the_gradient_of_the_mean_loss(stepped):
    network, batch, outputs, _, before, after = stepped
    # The classifier's bias adds to the logits, so the loss is a function of it in NumPy, and the
    # gradient a difference quotient.
    truth = np.eye(3)[batch["label"]]

    def loss(bias):
        exponent = np.exp(outputs["logits"] + bias)
        probabilities = exponent / exponent.sum(-1, keepdims=True)
        dice = (2 * (probabilities * truth).sum((1, 2, 3)) + 1e-5) / (
            (probabilities + truth).sum((1, 2, 3)) + 1e-5
        )
        return 0.7 * (1 - dice.mean()) - 1.1 * np.log((probabilities * truth).sum(-1)).mean()

    gradient = [(loss(1e-4 * axis) - loss(-1e-4 * axis)) / 2e-4 for axis in np.eye(3)]
    name = "end/classifier/bias"
    np.testing.assert_allclose(
        after[name] - before[name], -0.1 * np.array(gradient), rtol=1e-3, atol=1e-6
    )
    assert all(np.any(after[name] != before[name]) for name in network.variables)


def test_latent_noise_belongs_to_the_sample():
    seeds = tf.constant([[1, 2], [3, 4], [1, 2]], tf.int32)
    noise = latent_noise(seeds, 1000).numpy()
    np.testing.assert_array_equal(noise[0], noise[2])
    np.testing.assert_array_equal(noise[1], latent_noise(seeds[1:2], 1000).numpy()[0])
    assert (
        abs(noise[0].mean()) < 0.1
        and abs(noise[0].std() - 1) < 0.1
        and abs(np.mean(noise[0] * noise[1])) < 0.1
    )


def test_without_a_vae_branch_two_parts_remain():
    strategy = tf.distribute.get_strategy()
    network = tiny.build(tiny.SHALLOW, vae=None)
    optimizer = tf.keras.optimizers.SGD(0.1)
    optimizer.build(list(network.variables.values()))
    parts = TrainStep(network, optimizer, strategy, LossConfig(), 4)(
        distribute(tiny.batch(0), strategy)
    )
    assert set(parts) == {"total", "dice", "cross_entropy"}


def test_one_two_and_four_replicas_take_the_same_steps_and_resume_each_other():
    done = forked.run("tests.c2fnas.replicas_program")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    steps = result["steps"]
    for replicas in ("1", "2", "4"):
        assert steps[replicas]["parts"] == pytest.approx(steps["2"]["parts"], rel=1e-4)
        assert result[replicas]["adam"] == result["1"]["adam"]
        # 0.5 / 2 * (1 + 16), and 10 + 0.5 * 1 and 20 - 0.5 * 4 on every device
        assert result[replicas]["proximal"] == [4.25, *([10.5, 18.0] * int(replicas))]
        assert result[replicas]["sgd"] == [0.0, -4.0] * int(replicas)  # 1 - 0.5 * 2, -2 - 0.5 * 4
    assert result["1"]["adam"]["iterations"] == [3.0] and result["4"]["adam"]["devices"] == [
        0.0,
        0.0,
    ]
    assert "batch_size is 4 over 3 replicas; give a multiple of 3" in result["refused"]
    # A checkpoint of two devices is resumed by any number of them. Adam divides by the gradient's
    # size, so where a gradient is nearly 0 rounding shows, but no more than a part of a step.
    for replicas in ("1", "4"):
        assert steps[replicas]["state"] == 0.0
        assert steps[replicas]["gradients"] < 1e-3
        assert steps[replicas]["weights"] < 2e-4


@pytest.mark.parametrize("vae", ["reduced", None])
def test_samples_one_by_one_give_the_same_losses_and_gradients(vae):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        network = tiny.build(tiny.SHALLOW, vae=vae)
    results = []
    for at_once in (1, 2, 3):
        step = TrainStep(network, None, strategy, LossConfig(kl=500.0), 4, at_once=at_once)
        parts, norm, samples, gradients = step.gradients(distribute(tiny.batch(0), strategy))
        values = {name: float(value) for name, value in parts.items()}
        results.append((values, float(norm), samples, [np.array(g) for g in gradients]))
    together = results[0]
    assert len(together[2]) == 4 and len(set(together[2])) == 4
    for one_by_one in results[1:]:
        assert one_by_one[0] == pytest.approx(together[0], rel=1e-5)
        assert one_by_one[1] == pytest.approx(together[1], rel=1e-4)
        np.testing.assert_allclose(one_by_one[2], together[2], rtol=1e-5)
        for one, other in zip(one_by_one[3], together[3], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4 * max(1e-3, np.abs(other).max()))
    for one, other in zip(results[1][3], results[2][3], strict=True):
        np.testing.assert_array_equal(one, other)  # always added up in the order of the samples


def test_augmentation_is_part_of_the_step():
    def mirrored(image, label, sample_seed):
        assert sample_seed.shape == (4, 2)
        return tf.reverse(image, [1]), tf.reverse(label, [1])

    strategy = tf.distribute.get_strategy()
    network = tiny.build(tiny.SHALLOW)
    optimizer = tf.keras.optimizers.SGD(0.1)
    optimizer.build(list(network.variables.values()))

    def parts(step, batch):
        found, *_ = step.gradients(distribute(batch, strategy))
        return {name: float(value) for name, value in found.items()}

    batch = tiny.batch(0)
    by_hand = {
        **batch,
        "image": batch["image"][:, ::-1].copy(),
        "label": batch["label"][:, ::-1].copy(),
    }
    plain = TrainStep(network, optimizer, strategy, LossConfig(), 4)
    augmented = parts(
        TrainStep(network, optimizer, strategy, LossConfig(), 4, augment=mirrored), batch
    )
    assert augmented == pytest.approx(parts(plain, by_hand), rel=1e-5)
    assert augmented != pytest.approx(parts(plain, batch), rel=1e-5)


def _hidden(batch):
    """Returns the batch of a site that does not label tumours: they are background."""
    return {**batch, "label": np.where(batch["label"] == 2, 0, batch["label"]).astype(np.uint8)}


@pytest.mark.parametrize(
    ("treatment", "evidence", "at_once"), [("restricted", True, 2), ("distil", False, 1)]
)
def test_a_step_treats_missing_labels_as_the_losses_do(treatment, evidence, at_once):
    missing = MissingLabels(classes=(2,), treatment=treatment, evidence=evidence)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        network = tiny.build(tiny.SHALLOW)
        received = tiny.build(tiny.SHALLOW, vae=None, seed=4, class_prior=(0.4, 0.2, 0.4))
    batch = _hidden(tiny.batch(0))
    image, label = tf.cast(batch["image"], tf.float32), tf.constant(batch["label"])
    logits, seen = network.segmenter(image), received.segmenter(image)
    dice, entropy = losses.dice_and_cross_entropy(logits, label, missing=missing, received=seen)
    expected = {"dice": np.mean(dice), "cross_entropy": np.mean(entropy)}
    if evidence:
        expected["false_alarms"] = np.mean(losses.false_alarm_entropy(logits, label, seen, missing))
        assert expected["false_alarms"] > 0
    step = TrainStep(
        network, None, strategy, LossConfig(missing=missing), 4, at_once=at_once, received=received
    )
    parts, *_ = step.gradients(distribute(batch, strategy))
    assert {name: float(parts[name]) for name in expected} == pytest.approx(expected, rel=1e-5)
    weights = {
        "dice": 1.0,
        "cross_entropy": 1.0,
        "kl": 0.2,
        "reconstruction": 0.3,
        "false_alarms": 1.0,
    }
    total = sum(weights[name] * float(part) for name, part in parts.items() if name != "total")
    assert float(parts["total"]) == pytest.approx(total, rel=1e-5)


def test_a_restricted_loss_leaves_the_weights_of_the_missing_class_bit_for_bit():
    missing = MissingLabels(classes=(2,), treatment="restricted")
    trainer = tiny.trainer(tiny.SHALLOW, loss=LossConfig(missing=missing))
    before = trainer.weights()

    def unlabelled(start, stop):
        return tiny.datasets(start, stop).map(
            lambda batch: {
                **batch,
                "label": tf.where(
                    batch["label"] == 2, tf.zeros_like(batch["label"]), batch["label"]
                ),
            }
        )

    trainer.train(unlabelled, 3)
    after = trainer.weights()
    for name in ("end/classifier/kernel", "end/classifier/bias"):
        assert after[name][..., 2].tobytes() == before[name][..., 2].tobytes()
        assert (after[name][..., :2] != before[name][..., :2]).all()


def test_a_loss_that_needs_the_received_model_is_refused_without_it():
    strategy = tf.distribute.get_strategy()
    missing = MissingLabels(classes=(2,), treatment="distil")
    with pytest.raises(ValueError, match="'distil' and no received model is given"):
        TrainStep(tiny.build(), None, strategy, LossConfig(missing=missing), 4)


def test_the_received_model_stays_while_the_trained_one_moves_on():
    missing = MissingLabels(classes=(2,), treatment="distil")
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        network, received = tiny.build(tiny.SHALLOW), tiny.build(tiny.SHALLOW, vae=None)
    trainer = training.Trainer(
        network, tiny.config(loss=LossConfig(missing=missing)), strategy, received=received
    )
    start = trainer.weights()
    trainer.set_received(start)
    trainer.train(tiny.datasets, 2)
    kept = named_weights.read(received)
    assert kept and all(np.array_equal(kept[name], start[name]) for name in kept)
    assert any(not np.array_equal(trainer.weights()[name], start[name]) for name in kept)


def test_the_branch_moves_at_a_share_of_the_rate_and_the_rest_at_the_whole():
    """Adam's first step is the rate times the sign of the gradient."""
    whole, share = (tiny.trainer(tiny.SHALLOW, vae_rate=rate) for rate in (1.0, 0.25))
    before = whole.weights()
    for trainer in (whole, share):
        trainer.train(tiny.datasets, 1)
    for name, array in whole.weights().items():
        moved, less = array - before[name], share.weights()[name] - before[name]
        expected = 0.25 * moved if name.startswith("vae/") else moved
        np.testing.assert_allclose(less, expected, rtol=1e-2, atol=1e-6)
    assert any(
        np.abs(array - before[name]).max() > 5e-3
        for name, array in whole.weights().items()
        if name.startswith("vae/")
    )


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, float("nan")])
def test_an_invalid_share_of_the_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"vae_rate is .*; expected a share of the learning rate"):
        tiny.config(vae_rate=rate)


def test_the_norm_of_all_gradients_is_the_same_by_one_sum(monkeypatch):
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=shape) for shape in ((3, 3, 3, 2, 5), (7,), (), (40, 50))]
    expected = np.sqrt(sum(np.square(array).sum() for array in arrays))
    gradients = [tf.constant(array, tf.float32) for array in arrays]
    assert float(train_step.global_norm(gradients)) == float(tf.linalg.global_norm(gradients))
    monkeypatch.setattr(gpus, "is_used", lambda: True)
    assert float(train_step.global_norm(gradients)) == pytest.approx(expected, rel=1e-6)
    for bad in (np.inf, np.nan):
        assert not np.isfinite(train_step.global_norm([*gradients, tf.constant([bad])]))
