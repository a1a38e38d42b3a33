"""How the loss treats classes that a site does not label.

The site's scans may show such a class, or are known not to, but its labels never do. A softmax over
all classes teaches that the class does not exist, which undoes what other sites teach. The gradient
of the Dice term even grows for a class that has almost faded, see `losses.dice_and_cross_entropy`.
The treatments:

  background   The labels are used as they are: the class does not exist (the federated pancreas
               study).
  exclude      The class is left out of the mean of the Dice; the cross-entropy is unchanged.
  restricted   The softmax covers only the other classes (FedRS, Li and Zhan, KDD 2021), so no
               gradient reaches the logit of the class.
  marginal     The probability of the class is added to that of each voxel's labelled class, because
               the class was not looked for (marginal loss, Shi et al. 2021).
  distil       The received model determines how the probability is shared between a voxel's
               labelled class and the missing one; the labels decide the rest (after ConDistFL, Wang
               et al. 2023).

`evidence` is for classes that the patients are known not to have. A voxel in which the received
model finds such a class is a false alarm. There, `restricted` and `marginal` add the ordinary
cross-entropy over all classes, and `distil` keeps the label. The other two treatments use the
evidence in every voxel anyway.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import get_args

import tensorflow as tf

from c2fnas.allowed_values import Treatment


@dataclasses.dataclass(frozen=True, kw_only=True)
class MissingLabels:
    """Which classes a site does not label, and how the loss treats them.

    Attributes:
      classes: values of the classes without labels; never 0, the background.
      treatment: see above; without `classes` it has no effect.
      evidence: whether the received model's false alarms count; only for patients who are known not
        to have the classes.
    Raises:
      ValueError: for another treatment, or classes below 1 or given twice.
    """

    classes: tuple[int, ...] = ()
    treatment: Treatment = "background"
    evidence: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        known = get_args(Treatment)
        if self.treatment not in known:
            raise ValueError(
                f"missing_labels is {self.treatment!r}; expected one of {', '.join(known)}"
            )
        if len(set(self.classes)) != len(self.classes) or any(c < 1 for c in self.classes):
            raise ValueError(
                f"classes without labels are {self.classes}; expected values from 1, each once"
            )

    @property
    def needs_received(self) -> bool:
        """Whether the loss needs the logits of the received model."""
        return bool(self.classes) and (self.treatment == "distil" or self.has_false_alarms)

    @property
    def has_false_alarms(self) -> bool:
        """Whether the received model's false alarms are a separate loss term."""
        return bool(self.classes) and self.evidence and self.treatment in ("restricted", "marginal")


NOTHING_MISSING = MissingLabels()


@dataclasses.dataclass(frozen=True)
class Terms:
    """The values from which Dice and cross-entropy are computed.

    Attributes:
      planes: logits float32 [b, n, voxels] of the n classes that the loss distinguishes.
      truth: returns the target shares float32 [b, n, voxels], which add up to 1 in each voxel. It
        is a function because recomputing them for the gradient is cheaper than keeping them.
      counted: weights of the n classes in the mean of the Dice.
    """

    planes: tf.Tensor
    truth: Callable[[], tf.Tensor]
    counted: tuple[float, ...]


def terms(
    planes: tf.Tensor,
    labels: tf.Tensor,
    missing: MissingLabels,
    *,
    include_background: bool,
    received: tf.Tensor | None = None,
) -> Terms:
    """Returns the terms of the loss.

    Args:
      planes: logits float32 [b, classes, voxels].
      labels: int32 [b, voxels].
      missing: classes without labels.
      include_background: whether the background counts in the mean of the Dice.
      received: logits float32 [b, classes, voxels] of the received model, for `distil`.
    Raises:
      ValueError: if the network lacks one of the missing classes, or if every class but the
        background is missing.
    """
    classes = planes.shape[1]
    beyond = [c for c in missing.classes if c >= classes]
    if beyond or len(missing.classes) == classes - 1 > 1:
        raise ValueError(
            f"classes without labels are {missing.classes} of {classes}; "
            "expected at least one labelled class besides 0"
        )
    counted = [float(include_background)] + [1.0] * (classes - 1)

    def one_hot() -> tf.Tensor:
        return tf.one_hot(labels, classes, axis=1, dtype=tf.float32)

    if not missing.classes or missing.treatment == "background":
        return Terms(planes, one_hot, tuple(counted))
    if missing.treatment == "exclude":
        return Terms(
            planes,
            one_hot,
            tuple(0.0 if c in missing.classes else weight for c, weight in enumerate(counted)),
        )
    if missing.treatment == "distil":
        shares = received_shares(one_hot(), received, missing)
        return Terms(planes, lambda: completed(one_hot(), shares, missing), tuple(counted))
    present = [c for c in range(classes) if c not in missing.classes]

    def of_present() -> tf.Tensor:
        return tf.stack([tf.cast(tf.equal(labels, c), tf.float32) for c in present], axis=1)

    drawn = tf.concat([planes[:, c : c + 1] for c in present], axis=1)
    if missing.treatment == "marginal":
        unseen = tf.reduce_logsumexp(
            tf.concat([planes[:, c : c + 1] for c in missing.classes], axis=1),
            axis=1,
            keepdims=True,
        )
        truth = of_present()
        # log(exp(drawn) + exp(unseen)) for the labelled class
        drawn += truth * tf.nn.softplus(
            unseen - tf.reduce_sum(truth * drawn, axis=1, keepdims=True)
        )
    return Terms(drawn, of_present, tuple(counted[c] for c in present))


def received_shares(truth: tf.Tensor, received: tf.Tensor, missing: MissingLabels) -> tf.Tensor:
    """Returns the received model's shares of the labelled class and the missing ones.

    With evidence, the labelled class gets the whole share in every voxel in which a missing class
    is the most likely of all.

    Args:
      truth: labels, one-hot, float32 [b, classes, voxels].
      received: logits of the received model, of the same shape.
      missing: classes without labels.
    Returns:
      float32 [b, 1 + missing classes, voxels], adding up to 1 in each voxel: the labelled class
      first, then the missing ones in their order.
    """
    drawn = tf.reduce_sum(truth * received, axis=1, keepdims=True)
    shares = tf.nn.softmax(
        tf.concat([drawn, *(received[:, c : c + 1] for c in missing.classes)], axis=1), axis=1
    )
    if missing.evidence:
        alarm = false_alarms(received, missing)[:, tf.newaxis]
        shares = tf.concat(
            [alarm + (1.0 - alarm) * shares[:, :1], (1.0 - alarm) * shares[:, 1:]], axis=1
        )
    return tf.stop_gradient(shares)


def completed(truth: tf.Tensor, shares: tf.Tensor, missing: MissingLabels) -> tf.Tensor:
    """Returns labels completed by the received model.

    Args:
      truth: labels, one-hot, float32 [b, classes, voxels], without a missing class.
      shares: result of `received_shares`.
      missing: classes without labels.
    Returns:
      float32 [b, classes, voxels], adding up to 1 in each voxel.
    """
    place = {c: 1 + position for position, c in enumerate(missing.classes)}
    return tf.stack(
        [
            shares[:, place[c]] if c in place else truth[:, c] * shares[:, 0]
            for c in range(truth.shape[1])
        ],
        axis=1,
    )


def false_alarms(received: tf.Tensor, missing: MissingLabels) -> tf.Tensor:
    """Returns 1 where a missing class is the most likely of all, else 0.

    Args:
      received: logits of the received model, float32 [b, classes, voxels].
      missing: classes without labels.
    Returns:
      float32 [b, voxels].
    """
    alarm = tf.gather(
        _indicator(missing, received.shape[1]), tf.argmax(received, axis=1, output_type=tf.int32)
    )
    return tf.stop_gradient(alarm)


def false_alarm_entropy(
    planes: tf.Tensor, labels: tf.Tensor, received: tf.Tensor, missing: MissingLabels
) -> tf.Tensor:
    """Returns the cross-entropy over all classes at the received model's false alarms.

    In nats, summed over the false alarms and divided by the number of all voxels.

    Args:
      planes, received: logits float32 [b, classes, voxels].
      labels: int32 [b, voxels].
      missing: classes without labels.
    Returns:
      float32 [b]; 0 in a patch without a false alarm.
    """
    truth = tf.one_hot(labels, planes.shape[1], axis=1, dtype=tf.float32)
    entropy = tf.reduce_logsumexp(planes, axis=1) - tf.reduce_sum(truth * planes, axis=1)
    return tf.reduce_mean(entropy * false_alarms(received, missing), axis=-1)


def _indicator(missing: MissingLabels, classes: int) -> tf.Tensor:
    return tf.constant([float(c in missing.classes) for c in range(classes)])
