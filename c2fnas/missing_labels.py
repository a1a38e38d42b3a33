"""How the loss treats classes that a site does not label: its scans may hold them, or are known not
to, but its labels never show them.

A softmax over all classes teaches such a site that the class is nowhere, which undoes what other
sites teach. Of a class that has almost faded, the pull of the Dice term even grows: see
`losses.dice_and_cross_entropy`. The treatments:

  background   as the labels stand: the class is nowhere (the federated pancreas study).
  exclude      the class is left out of the mean of the Dice; the cross entropy stays.
  restricted   the softmax covers the other classes only (FedRS, Li and Zhan, KDD 2021): no gradient reaches the class's logit.
  marginal     in each voxel the probability of the class counts for the class that was drawn there, whichever that is: nobody looked
               for it (marginal loss, Shi et al. 2021).
  distil       in each voxel the received model says how the probability is shared between the class that was drawn and the missing
               one; the labels say the rest (after ConDistFL, Wang et al. 2023).

With `evidence`, for classes that the patients are known not to have, voxels in which the received
model sees such a class are false alarms. `restricted` and `marginal` add the ordinary cross entropy
there, over all classes; `distil` keeps the label there; the other two use the evidence in every
voxel as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import tensorflow as tf

Treatment = Literal["background", "exclude", "restricted", "marginal", "distil"]
TREATMENTS = get_args(Treatment)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MissingLabels:
    """Which classes a site does not label, and what the loss does about them.

    Attributes:
      classes: values of the classes that are not labelled; never 0, the background.
      treatment: see above; of no account without `classes`.
      evidence: add the cross entropy at the received model's false alarms; only for patients who
          are known not to have the classes.
    """

    classes: tuple[int, ...] = ()
    treatment: Treatment = "background"
    evidence: bool = False

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(self.classes))
        if self.treatment not in TREATMENTS:
            raise ValueError(
                f"missing_labels is {self.treatment!r}; expected one of {', '.join(TREATMENTS)}"
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
        """Whether the received model's false alarms are a part of the loss. In `distil` they keep
        their label instead.
        """
        return bool(self.classes) and self.evidence and self.treatment in ("restricted", "marginal")


NONE = MissingLabels()


@dataclasses.dataclass(frozen=True)
class Terms:
    """What Dice and cross entropy are computed from.

    Attributes:
      planes: logits float32 [b, n, voxels] of the n classes that the loss tells apart.
      truth: returns the target shares float32 [b, n, voxels], which add up to 1 in each voxel. A
        function, because it is cheaper to compute them again for the gradient than to keep them.
      counted: weights of the n classes in the mean of the Dice.
    """

    planes: Any
    truth: Callable[[], Any]
    counted: tuple[float, ...]


def terms(
    planes: Any,
    labels: Any,
    missing: MissingLabels,
    *,
    include_background: bool,
    received: Any = None,
) -> Terms:
    """Returns the terms of the loss.

    Args:
      planes: logits float32 [b, classes, voxels].
      labels: int32 [b, voxels].
      received: logits float32 [b, classes, voxels] of the received model; for `distil`.
    Raises:
      ValueError: if a class is missing that the network does not have, or all but the background
          are.
    """
    classes = planes.shape[1]
    beyond = [c for c in missing.classes if c >= classes]
    if beyond or len(missing.classes) == classes - 1 > 1:
        raise ValueError(
            f"classes without labels are {missing.classes} of {classes}; expected at least one labelled class besides 0"
        )
    counted = [float(include_background)] + [1.0] * (classes - 1)

    def one_hot():
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

    def of_present():
        return tf.stack([tf.cast(tf.equal(labels, c), tf.float32) for c in present], axis=1)

    drawn = tf.concat([planes[:, c : c + 1] for c in present], axis=1)
    if missing.treatment == "marginal":
        unseen = tf.reduce_logsumexp(
            tf.concat([planes[:, c : c + 1] for c in missing.classes], axis=1),
            axis=1,
            keepdims=True,
        )
        truth = of_present()
        # log(exp(drawn) + exp(unseen)) where the class was drawn
        drawn += truth * tf.nn.softplus(
            unseen - tf.reduce_sum(truth * drawn, axis=1, keepdims=True)
        )
    return Terms(drawn, of_present, tuple(counted[c] for c in present))


def received_shares(truth: Any, received: Any, missing: MissingLabels) -> Any:
    """Returns how the received model shares a voxel's probability between the drawn class and the
    missing ones.

    With evidence of absence a voxel in which that model finds a missing class the most likely of
    all belongs to the drawn class.

    Args:
      truth: the labels, one-hot, float32 [b, classes, voxels].
      received: logits of the received model, the same shape.
    Returns:
      float32 [b, 1 + missing classes, voxels], adding up to 1 in each voxel: the drawn class first,
      then the missing ones in their order.
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


def completed(truth: Any, shares: Any, missing: MissingLabels) -> Any:
    """Returns labels that the received model has completed: float32 [b, classes, voxels], adding up
    to 1 in each voxel.

    Args:
      truth: the labels, one-hot, float32 [b, classes, voxels]; they never show a missing class.
      shares: of `received_shares`.
    """
    place = {c: 1 + position for position, c in enumerate(missing.classes)}
    return tf.stack(
        [
            shares[:, place[c]] if c in place else truth[:, c] * shares[:, 0]
            for c in range(truth.shape[1])
        ],
        axis=1,
    )


def false_alarms(received: Any, missing: MissingLabels) -> Any:
    """Returns 1 where the received model finds a missing class the most likely of all, else 0:
    float32 [b, voxels].

    Args:
      received: logits float32 [b, classes, voxels].
    """
    alarm = tf.gather(
        _indicator(missing, received.shape[1]), tf.argmax(received, axis=1, output_type=tf.int32)
    )
    return tf.stop_gradient(alarm)


def false_alarm_entropy(planes: Any, labels: Any, received: Any, missing: MissingLabels) -> Any:
    """Returns the cross entropy in nats over all classes, summed over the received model's false
    alarms and divided by all voxels.

    Args:
      planes, received: logits float32 [b, classes, voxels].
      labels: int32 [b, voxels].
    Returns:
      float32 [b]; 0 in a patch without a false alarm.
    """
    truth = tf.one_hot(labels, planes.shape[1], axis=1, dtype=tf.float32)
    entropy = tf.reduce_logsumexp(planes, axis=1) - tf.reduce_sum(truth * planes, axis=1)
    return tf.reduce_mean(entropy * false_alarms(received, missing), axis=-1)


def _indicator(missing: MissingLabels, classes: int) -> Any:
    return tf.constant([float(c in missing.classes) for c in range(classes)])
