"""Losses for missing labels, against float64 loops and difference quotients."""

import math

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import losses
from c2fnas.missing_labels import MissingLabels

SMOOTH = 1e-5


def _case(seed=0, classes=3, missing=(2,)):
    """Logits, labels that never show the missing classes, and the logits of a received model."""
    rng = np.random.default_rng(seed)
    present = [c for c in range(classes) if c not in missing]
    labels = rng.choice(present, size=(2, 3, 4, 5)).astype(np.uint8)
    return (
        rng.normal(size=(2, 3, 4, 5, classes)),
        labels,
        2.0 * rng.normal(size=(2, 3, 4, 5, classes)),
    )


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def reference(logits, labels, received, treatment, missing, evidence=False):
    """Returns Dice loss and cross-entropy of each sample by their definition, voxel by voxel."""
    classes = logits.shape[-1]
    dice, entropy = [], []
    for sample in range(len(logits)):
        told_apart = (
            list(range(classes))
            if treatment in ("background", "exclude", "distil")
            else [c for c in range(classes) if c not in missing]
        )
        in_mean = [c for c in told_apart if not (treatment == "exclude" and c in missing)]
        overlap, total, bits = dict.fromkeys(told_apart, 0.0), dict.fromkeys(told_apart, 0.0), []
        for index in np.ndindex(labels.shape[1:]):
            drawn = int(labels[sample][index])
            p = _softmax(logits[sample][index][told_apart])
            p = dict(zip(told_apart, p, strict=True))
            target = {c: float(c == drawn) for c in told_apart}
            if treatment == "marginal":
                every = _softmax(logits[sample][index])
                p = {
                    c: every[c] + (sum(every[m] for m in missing) if c == drawn else 0.0)
                    for c in told_apart
                }
            if treatment == "distil":
                q = _softmax(received[sample][index])
                among = [drawn, *missing]
                alarm = evidence and int(np.argmax(q)) in missing
                if not alarm:
                    target = {
                        c: (q[c] / sum(q[a] for a in among) if c in among else 0.0)
                        for c in told_apart
                    }
            bits.append(-sum(target[c] * math.log(p[c]) for c in told_apart))
            for c in told_apart:
                overlap[c] += p[c] * target[c]
                total[c] += p[c] + target[c]
        dice.append(
            1.0 - np.mean([(2 * overlap[c] + SMOOTH) / (total[c] + SMOOTH) for c in in_mean])
        )
        entropy.append(np.mean(bits))
    return np.array(dice), np.array(entropy)


EACH = [
    *[
        (treatment, (2,), 3, False)
        for treatment in ("background", "exclude", "restricted", "marginal", "distil")
    ],
    ("distil", (2,), 3, True),
    *[
        (treatment, (1, 3), 5, False)
        for treatment in ("exclude", "restricted", "marginal", "distil")
    ],
]


@pytest.mark.parametrize(("treatment", "missing", "classes", "evidence"), EACH)
def test_values_are_those_of_the_definition(treatment, missing, classes, evidence):
    logits, labels, received = _case(1, classes, missing)
    scheme = MissingLabels(classes=missing, treatment=treatment, evidence=evidence)
    found = losses.dice_and_cross_entropy(
        tf.constant(logits, tf.float32),
        tf.constant(labels),
        missing=scheme,
        received=tf.constant(received, tf.float32),
    )
    for value, expected in zip(
        found, reference(logits, labels, received, treatment, missing, evidence), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=2e-5)


@pytest.mark.parametrize(("treatment", "missing", "classes", "evidence"), EACH)
def test_gradients_are_difference_quotients_of_the_definition(
    treatment, missing, classes, evidence
):
    logits, labels, received = _case(2, classes, missing)
    scheme = MissingLabels(classes=missing, treatment=treatment, evidence=evidence)
    point = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(point)
        dice, entropy = losses.dice_and_cross_entropy(
            point, tf.constant(labels), missing=scheme, received=tf.constant(received, tf.float32)
        )
        target = tf.reduce_sum(0.7 * dice + 1.3 * entropy)
    gradient = tape.gradient(target, point).numpy()
    rng = np.random.default_rng(0)
    for _ in range(12):
        where = tuple(rng.integers(0, n) for n in logits.shape)
        moved = []
        for step in (1e-5, -1e-5):
            shifted = logits.copy()
            shifted[where] += step
            d, e = reference(shifted, labels, received, treatment, missing, evidence)
            moved.append((0.7 * d + 1.3 * e).sum())
        assert gradient[where] == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=2e-3, abs=2e-6)


def test_a_restricted_loss_leaves_the_missing_class_without_any_gradient():
    logits, labels, _ = _case(3)
    point = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(point)
        dice, entropy = losses.dice_and_cross_entropy(
            point, tf.constant(labels), missing=MissingLabels(classes=(2,), treatment="restricted")
        )
        target = tf.reduce_sum(dice + entropy)
    gradient = tape.gradient(target, point).numpy()
    assert not gradient[..., 2].any() and gradient[..., :2].any()


def test_a_restricted_loss_is_that_of_a_network_without_the_class():
    logits, labels, _ = _case(4)
    found = losses.dice_and_cross_entropy(
        tf.constant(logits, tf.float32),
        tf.constant(labels),
        missing=MissingLabels(classes=(2,), treatment="restricted"),
    )
    expected = losses.dice_and_cross_entropy(
        tf.constant(logits[..., :2], tf.float32), tf.constant(labels)
    )
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_received_model_that_sees_nothing_missing_leaves_the_labels_as_they_are():
    logits, labels, received = _case(5)
    received[..., 2] = -200.0
    found = losses.dice_and_cross_entropy(
        tf.constant(logits, tf.float32),
        tf.constant(labels),
        missing=MissingLabels(classes=(2,), treatment="distil"),
        received=tf.constant(received, tf.float32),
    )
    expected = losses.dice_and_cross_entropy(tf.constant(logits, tf.float32), tf.constant(labels))
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6)


def test_an_absent_class_costs_next_to_nothing_only_far_below_the_smoothing():
    # 1,000 voxels of background and a class whose probabilities add up to `mass`; its Dice is
    # smooth / (mass + smooth).
    for mass, expected in ((1e-8, 0.001), (1e-5, 0.5), (1e-2, 0.999)):
        logits = np.zeros((1, 10, 10, 10, 2), np.float32)
        logits[..., 1] = math.log(mass / 1000.0)
        loss = float(
            losses.dice_and_cross_entropy(
                tf.constant(logits), tf.zeros((1, 10, 10, 10), tf.uint8), include_background=False
            )[0][0]
        )
        assert loss == pytest.approx(expected, abs=1e-3)


def test_false_alarms_are_where_the_received_model_finds_a_missing_class_the_most_likely():
    logits, labels, received = _case(6)
    missing = MissingLabels(classes=(2,), treatment="restricted", evidence=True)
    found = losses.false_alarm_entropy(
        tf.constant(logits, tf.float32),
        tf.constant(labels),
        tf.constant(received, tf.float32),
        missing,
    )
    for sample in range(2):
        total = 0.0
        for index in np.ndindex(labels.shape[1:]):
            if int(np.argmax(received[sample][index])) == 2:
                total -= math.log(_softmax(logits[sample][index])[labels[sample][index]])
        assert total > 0.0 and float(found[sample]) == pytest.approx(
            total / labels[sample].size, rel=1e-5
        )
    received[..., 2] = -5.0
    quiet = losses.false_alarm_entropy(
        tf.constant(logits, tf.float32),
        tf.constant(labels),
        tf.constant(received, tf.float32),
        missing,
    )
    np.testing.assert_array_equal(quiet, [0.0, 0.0])


def test_what_cannot_be_is_refused():
    with pytest.raises(
        ValueError, match="missing_labels is 'ignore'; expected one of background, exclude"
    ):
        MissingLabels(treatment="ignore")
    with pytest.raises(ValueError, match=r"\(0,\); expected values from 1"):
        MissingLabels(classes=(0,))
    logits, labels, _ = _case(7)
    for classes in ((3,), (1, 2)):
        with pytest.raises(ValueError, match="at least one labelled class"):
            losses.dice_and_cross_entropy(
                tf.constant(logits), tf.constant(labels), missing=MissingLabels(classes=classes)
            )
