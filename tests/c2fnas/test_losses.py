import math

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import losses


def _case(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    labels = rng.integers(0, 3, size=(2, 3, 4, 5)).astype(np.uint8)
    return logits, labels


def _probabilities(logits):
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _dice(logits, labels, **options):
    return losses.dice_and_cross_entropy(logits, labels, **options)[0]


def _cross_entropy(logits, labels):
    return losses.dice_and_cross_entropy(logits, labels)[1]


@pytest.mark.parametrize(("include_background", "classes"), [(True, (0, 1, 2)), (False, (1, 2))])
def test_dice_against_loops(include_background, classes):
    logits, labels = _case()
    probabilities = _probabilities(logits)
    expected = []
    for sample in range(2):
        scores = []
        for c in classes:
            overlap = total = 0.0
            for index in np.ndindex(3, 4, 5):
                truth = float(labels[sample][index] == c)
                overlap += truth * probabilities[sample][index][c]
                total += truth + probabilities[sample][index][c]
            scores.append((2 * overlap + 1e-5) / (total + 1e-5))
        expected.append(1 - sum(scores) / len(scores))
    found = _dice(tf.constant(logits), tf.constant(labels), include_background=include_background)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dice_of_an_undecided_network_by_hand():
    # 8 voxels, 2 of class 1, none of class 2; every probability is 1/3.
    labels = np.zeros((1, 2, 2, 2), np.uint8)
    labels[0, 0, 0] = 1
    found = _dice(tf.zeros((1, 2, 2, 2, 3)), tf.constant(labels), smooth=0.0)
    dice = [2 * (6 / 3) / (6 + 8 / 3), 2 * (2 / 3) / (2 + 8 / 3), 0.0]
    np.testing.assert_allclose(found, [1 - sum(dice) / 3], rtol=1e-6)


def test_dice_loss_of_right_and_wrong_predictions():
    labels = np.zeros((1, 2, 2, 2), np.uint8)
    labels[0, 0] = 2
    right = 50 * np.eye(3, dtype=np.float32)[labels]
    assert float(_dice(tf.constant(right), tf.constant(labels))[0]) == pytest.approx(0.0, abs=1e-6)
    wrong = 50 * np.eye(3, dtype=np.float32)[(labels + 1) % 3]
    # Class 1 is predicted and absent, 0 and 2 are missed.
    assert float(_dice(tf.constant(wrong), tf.constant(labels))[0]) == pytest.approx(1.0, abs=1e-4)


def test_cross_entropy_against_loops():
    logits, labels = _case(1)
    probabilities = _probabilities(logits)
    expected = [
        np.mean([-math.log(probabilities[s][i][labels[s][i]]) for i in np.ndindex(3, 4, 5)])
        for s in range(2)
    ]
    np.testing.assert_allclose(
        _cross_entropy(tf.constant(logits), tf.constant(labels)), expected, rtol=1e-5
    )


def test_cross_entropy_of_an_undecided_network_is_log_of_the_classes():
    np.testing.assert_allclose(
        _cross_entropy(tf.zeros((1, 2, 2, 2, 3)), tf.zeros((1, 2, 2, 2), tf.uint8)),
        [math.log(3)],
        rtol=1e-6,
    )


def test_cross_entropy_stays_finite_for_large_logits():
    logits = np.zeros((1, 2, 2, 2, 3), np.float32)
    logits[..., 1] = 1e4
    np.testing.assert_allclose(
        _cross_entropy(tf.constant(logits), tf.zeros((1, 2, 2, 2), tf.int32)),
        [1e4],
        rtol=1e-6,
    )


@pytest.mark.parametrize("include_background", [True, False])
def test_gradients_are_those_of_the_definition(include_background):
    # The derivative of the cross-entropy by the logits is (p - truth) / voxels. That of the Dice is
    # checked by central differences in float64.
    logits, labels = _case(2)
    variable = tf.Variable(logits)
    with tf.GradientTape(persistent=True) as tape:
        entropy = _cross_entropy(variable, tf.constant(labels))
        dice = _dice(variable, tf.constant(labels), include_background=include_background)
        both = losses.dice_and_cross_entropy(
            variable, tf.constant(labels), include_background=include_background
        )
        weighted = 0.7 * tf.reduce_sum(both[0] * [1.0, 3.0]) + 1.3 * tf.reduce_sum(
            both[1] * [2.0, 1.0]
        )
    expected = (_probabilities(logits) - np.eye(3)[labels]) / 60
    np.testing.assert_allclose(tape.gradient(entropy, variable), expected, atol=1e-7)
    gradient = tape.gradient(dice, variable).numpy()
    shares = np.array([[1.0, 3.0], [2.0, 1.0]]).reshape(2, 2, 1, 1, 1, 1)
    np.testing.assert_allclose(
        tape.gradient(weighted, variable),
        0.7 * shares[0] * gradient + 1.3 * shares[1] * expected,
        atol=1e-7,
    )
    for index in [(0, 0, 0, 0, 0), (1, 2, 3, 4, 1), (0, 1, 1, 1, 2)]:
        ends = []
        for shift in (-1e-4, 1e-4):
            moved = logits.astype(np.float64)
            moved[index] += shift
            p, truth = _probabilities(moved)[index[0]], np.eye(3)[labels[index[0]]]
            scores = (2 * (p * truth).sum((0, 1, 2)) + 1e-5) / ((p + truth).sum((0, 1, 2)) + 1e-5)
            ends.append(1 - scores[0 if include_background else 1 :].mean())
        assert gradient[index] == pytest.approx((ends[1] - ends[0]) / 2e-4, abs=2e-6)


def test_kl_closed_form():
    mean, std = (
        np.array([[1.0, -2.0], [0.0, 0.0]], np.float32),
        np.array([[1.0, 2.0], [1.0, 1.0]], np.float32),
    )
    by_hand = (1 + 1 - 0 - 1) + (4 + 4 - math.log(4) - 1)
    np.testing.assert_allclose(
        losses.kl_divergence(mean, std, voxels=96**3), [by_hand / 96**3, 0.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.kl_divergence(mean, std, voxels=96**3, kind="latent"), [by_hand / 4, 0.0], rtol=1e-6
    )


def test_kl_kinds_differ_by_voxels_over_twice_the_latent():
    rng = np.random.default_rng(3)
    mean, std = (
        rng.normal(size=(1, 128)).astype(np.float32),
        rng.uniform(0.1, 2, size=(1, 128)).astype(np.float32),
    )
    voxels, latent = (
        losses.kl_divergence(mean, std, voxels=96**3, kind=kind) for kind in ("voxels", "latent")
    )
    np.testing.assert_allclose(latent / voxels, [3456.0], rtol=1e-5)


def test_kl_is_that_of_two_gaussians():
    # Twice the integral of q log(q / p) over a fine grid, q = N(0.7, 0.4), p = N(0, 1).
    x = np.linspace(-8, 8, 200001)
    q = np.exp(-0.5 * ((x - 0.7) / 0.4) ** 2) / (0.4 * math.sqrt(2 * math.pi))
    p = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    integral = np.sum(q * (-0.5 * ((x - 0.7) / 0.4) ** 2 - math.log(0.4) + 0.5 * x**2)) * (
        x[1] - x[0]
    )
    assert p.sum() * (x[1] - x[0]) == pytest.approx(1.0)
    found = losses.kl_divergence(
        np.array([[0.7]], np.float32), np.array([[0.4]], np.float32), voxels=1
    )
    np.testing.assert_allclose(found, [2 * integral], rtol=1e-5)


def test_reconstruction_is_the_mean_squared_difference():
    image = np.zeros((2, 2, 2, 2, 1), np.float32)
    reconstruction = np.full_like(image, 0.5)
    reconstruction[1, 0, 0, 0, 0] = 3.0
    np.testing.assert_allclose(
        losses.reconstruction_loss(reconstruction, image), [0.25, (7 * 0.25 + 9) / 8], rtol=1e-6
    )


def test_errors_carry_the_shapes_and_values():
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) voxels, labels \(2, 2, 3\)"):
        _dice(tf.zeros((1, 2, 2, 2, 3)), tf.zeros((1, 2, 2, 3), tf.uint8))
    with pytest.raises(ValueError, match="crop both"):
        _cross_entropy(tf.zeros((1, 2, 2, 2, 3)), tf.zeros((1, 2, 2, 3), tf.uint8))
    with pytest.raises(ValueError, match=r"\(2, 2, 2, 1\), image \(2, 2, 3, 1\)"):
        losses.reconstruction_loss(tf.zeros((1, 2, 2, 2, 1)), tf.zeros((1, 2, 2, 3, 1)))
    with pytest.raises(ValueError, match=r"'bits'.*voxels, latent"):
        losses.kl_divergence(tf.zeros((1, 2)), tf.ones((1, 2)), voxels=8, kind="bits")
    with pytest.raises(ValueError, match="kl is -1"):
        losses.LossConfig(kl=-1.0)
    with pytest.raises(ValueError, match="'bits'"):
        losses.LossConfig(kl_kind="bits")


def test_weights_of_the_study_are_the_defaults():
    config = losses.LossConfig()
    assert (config.dice, config.cross_entropy, config.kl, config.reconstruction) == (
        1.0,
        1.0,
        0.2,
        0.3,
    )
