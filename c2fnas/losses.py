"""The training losses, one float32 value per patch.

The train step adds them up over the global batch.
"""

from __future__ import annotations

import dataclasses
from typing import get_args

import tensorflow as tf

from c2fnas import missing_labels
from c2fnas.allowed_values import KlKind
from c2fnas.missing_labels import MissingLabels


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss parts and options of their definitions.

    Attributes:
      dice, cross_entropy, kl, reconstruction: weights of the parts.
      kl_kind: see `kl_divergence`.
      include_background: whether the background counts in the Dice loss.
      missing: classes without labels, and their treatment.
      false_alarms: weight of the cross-entropy at the received model's false alarms, where
        `missing` has evidence.
    Raises:
      ValueError: for a weight that is negative or not finite, or another kind.
    Source: the federated pancreas study for the weights, a later public configuration by its first
      author for `include_background`.
    """

    dice: float = 1.0
    cross_entropy: float = 1.0
    kl: float = 0.2
    reconstruction: float = 0.3
    kl_kind: KlKind = "voxels"
    include_background: bool = True
    missing: MissingLabels = missing_labels.NOTHING_MISSING
    false_alarms: float = 1.0

    def __post_init__(self) -> None:
        for name in ("dice", "cross_entropy", "kl", "reconstruction", "false_alarms"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"weight of loss part {name} is {getattr(self, name)}; "
                    "expected a finite number of at least 0"
                )
        _check_kind(self.kl_kind)


def dice_and_cross_entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    include_background: bool = True,
    smooth: float = 1e-5,
    missing: MissingLabels = missing_labels.NOTHING_MISSING,
    received: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the soft Dice loss and the categorical cross-entropy.

    Both start from the same softmax, so they are computed together, with their gradient in closed
    form. Only the probabilities are kept for it; automatic differentiation would keep eight volumes
    of that size when memory use is highest.

    Args:
      logits: float [b, x, y, z, classes], before softmax.
      labels: int [b, x, y, z], 0 is background.
      include_background: whether class 0 counts as one of the classes of the Dice.
      smooth: keeps the Dice of an absent class finite. Such a class costs almost nothing only while
        the sum of its probabilities over the patch is far below `smooth`; at a thousand times
        `smooth` it costs 0.999 of its share. The loss therefore drives the sum down to `smooth`.
        The gradient on its logit is proportional to (sum * smooth) / (sum + smooth)**2: it grows as
        the class fades and is greatest where the sum equals `smooth`.
      missing: classes that the labels never show, and their treatment.
      received: logits of the received model, shaped like `logits`; needed if
        `missing.needs_received`.
    Returns:
      Two of float32 [b]: one minus the soft Dice averaged over the classes, in [0, 1], and the
      cross-entropy in nats averaged over the voxels.
    Raises:
      ValueError: if the shapes differ; the message carries both.
    Source: Milletari et al. 2016 (V-Net); unlike there, the denominator sums the probabilities, not
      their squares.
    """
    if tuple(logits.shape[1:-1]) != tuple(labels.shape[1:]):
        raise ValueError(
            f"logits cover {tuple(logits.shape[1:-1])} voxels, labels {tuple(labels.shape[1:])}; "
            "crop both with the same window"
        )
    terms = missing_labels.terms(
        _planes(logits),
        _flat(labels),
        missing,
        include_background=include_background,
        received=None if received is None else tf.stop_gradient(_planes(received)),
    )
    counted = tf.constant(terms.counted)[:, tf.newaxis]  # [classes, 1]

    @tf.custom_gradient
    def both(planes):
        shifted = planes - tf.reduce_max(planes, axis=1, keepdims=True)
        exponentials = tf.exp(shifted)
        normaliser = tf.reduce_sum(exponentials, axis=1, keepdims=True)
        probabilities = exponentials / normaliser
        truth = terms.truth()
        overlap = tf.reduce_sum(probabilities * truth, axis=-1, keepdims=True)  # [b, classes, 1]
        total = (
            tf.reduce_sum(probabilities, axis=-1, keepdims=True)
            + tf.reduce_sum(truth, axis=-1, keepdims=True)
            + smooth
        )
        dice = (2.0 * overlap + smooth) / total
        mean_dice = tf.reduce_sum(dice * counted, axis=[1, 2]) / tf.reduce_sum(counted)
        entropy = tf.reduce_mean(
            tf.math.log(normaliser[:, 0]) - tf.reduce_sum(shifted * truth, axis=1), axis=-1
        )

        def gradient(upstream_dice, upstream_entropy):
            # Recomputed rather than kept: it is cheap, and memory use is highest at this point.
            truth = terms.truth()
            voxels = tf.cast(tf.shape(truth)[-1], tf.float32)
            share = tf.reshape(upstream_dice, [-1, 1, 1]) * counted / tf.reduce_sum(counted)
            each = tf.reshape(upstream_entropy, [-1, 1, 1]) / voxels
            # the derivative of the Dice loss with respect to each probability
            slope = truth * (-2.0 * share / total) + share * dice / total
            mean_slope = tf.reduce_sum(slope * probabilities, axis=1, keepdims=True)
            return probabilities * (slope + (each - mean_slope)) - truth * each

        return (1.0 - mean_dice, entropy), gradient

    return both(terms.planes)


def false_alarm_entropy(
    logits: tf.Tensor, labels: tf.Tensor, received: tf.Tensor, missing: MissingLabels
) -> tf.Tensor:
    """Returns the cross-entropy at the received model's false alarms.

    Args:
      logits: float [b, x, y, z, classes], before softmax.
      labels: int [b, x, y, z].
      received: logits of the received model, shaped like `logits`.
      missing: classes without labels, see `missing_labels`.
    Returns:
      float32 [b], in nats: the sum over the false alarms divided by the voxels of the patch.
    """
    return missing_labels.false_alarm_entropy(
        _planes(logits), _flat(labels), _planes(received), missing
    )


def _planes(logits: tf.Tensor) -> tf.Tensor:
    """Returns logits as float32 [b, classes, voxels].

    With voxels as the last axis a CPU's vector units are full; three classes would not fill them.
    """
    return tf.transpose(
        tf.reshape(tf.cast(logits, tf.float32), [tf.shape(logits)[0], -1, logits.shape[-1]]),
        [0, 2, 1],
    )


def _flat(labels: tf.Tensor) -> tf.Tensor:
    """Returns labels as int32 [b, voxels]."""
    return tf.reshape(tf.cast(labels, tf.int32), [tf.shape(labels)[0], -1])


def kl_divergence(
    mean: tf.Tensor, std: tf.Tensor, *, voxels: int, kind: KlKind = "voxels"
) -> tf.Tensor:
    """Returns the KL divergence of the latent distribution from the standard normal one.

    With d = mean^2 + std^2 - log std^2 - 1, kind "voxels" is the sum of d over the latent vector
    divided by `voxels`, and kind "latent" is half the mean of d, which is voxels / (2 * latent)
    times larger.

    Args:
      mean, std: float [b, latent]; std is above 0.
      voxels: number of voxels of the patch, used by kind "voxels".
      kind: "voxels" or "latent".
    Returns:
      float32 [b]; 0 exactly where mean is 0 and std is 1.
    Raises:
      ValueError: for another kind.
    Source: Myronenko 2018 for kind "voxels".
    """
    _check_kind(kind)
    mean, std = tf.cast(mean, tf.float32), tf.cast(std, tf.float32)
    terms = tf.square(mean) + tf.square(std) - 2.0 * tf.math.log(std) - 1.0
    if kind == "voxels":
        return tf.reduce_sum(terms, axis=-1) / float(voxels)
    return 0.5 * tf.reduce_mean(terms, axis=-1)


def reconstruction_loss(reconstruction: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Returns the mean squared difference of the voxels.

    Args:
      reconstruction, image: float [b, x, y, z, 1].
    Returns:
      float32 [b].
    Raises:
      ValueError: if the shapes differ; the message carries both.
    """
    if reconstruction.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"reconstruction covers {tuple(reconstruction.shape[1:])}, "
            f"image {tuple(image.shape[1:])}; give the patch itself"
        )
    difference = tf.cast(reconstruction, tf.float32) - tf.cast(image, tf.float32)
    return tf.reduce_mean(tf.square(difference), axis=[1, 2, 3, 4])


def _check_kind(kind: str) -> None:
    if kind not in get_args(KlKind):
        raise ValueError(f"kl kind is {kind!r}; expected one of {', '.join(get_args(KlKind))}")
