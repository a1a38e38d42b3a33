"""The samples of a batch one by one, several at the same time: how a CPU shares a step among its
cores.

Nothing in this network mixes samples: its norms see one at a time, and losses and gradients are
sums over them. Two cores that work on a sample each do not wait for each other at every operation,
as they do when both share each operation of a whole batch, and the parts that one core does alone
are done twice at the same time. A step of two samples on two cores takes a sixth less time
(tests/benchmarks/network_speed.py). However large the batch, only the samples that are being
computed need memory for their activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def summed(
    compute: Callable[..., tuple[Any, tf.Tensor]],
    samples: Sequence[tf.Tensor],
    sums_like: Any,
    *,
    at_once: int,
) -> tuple[Any, tf.Tensor]:
    """Returns what `compute` gives for each sample: the first part added up, in the samples' order,
    and the second one after the other.

    Args:
      compute: called while a graph is traced with a batch of one, cut from each of `samples`;
        returns (a structure of float32 tensors, float32 [1]).
      samples: tensors [b, ...] with a known b.
      sums_like: tensors or tf.TensorSpec in the structure that `compute` returns first, for their
          shapes.
      at_once: how many samples are computed at the same time; TensorFlow needs as many threads
          between operations.
    """
    count = samples[0].shape[0]
    zeros = tf.nest.map_structure(lambda like: tf.zeros(like.shape, tf.float32), sums_like)
    rows = tf.TensorArray(tf.float32, size=count, element_shape=(1,))

    def body(index, sums, rows):
        found, row = compute(*(_one(sample, index) for sample in samples))
        return index + 1, tf.nest.map_structure(tf.add, sums, found), rows.write(index, row)

    _, sums, rows = tf.while_loop(
        lambda index, *_: index < count, body, (0, zeros, rows), parallel_iterations=at_once
    )
    return sums, tf.reshape(rows.stack(), [count])


def joined(
    compute: Callable[[tf.Tensor], tf.Tensor], batch: tf.Tensor, *, at_once: int
) -> tf.Tensor:
    """Returns what `compute` gives for each sample, one after the other, float32 [b, ...].

    Args:
      compute: called while a graph is traced with a batch of one, cut from `batch`; returns float32
          [1, x, y, z, c] of known c.
      batch: [b, x, y, z, ...] with a known b.
      at_once: as in `summed`.
    """
    count = batch.shape[0]
    rows = tf.TensorArray(tf.float32, size=count)

    def body(index, rows):
        return index + 1, rows.write(index, compute(_one(batch, index)))

    _, rows = tf.while_loop(
        lambda index, _: index < count, body, (0, rows), parallel_iterations=at_once
    )
    return rows.concat()


def _one(sample: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(sample[index : index + 1], (1, *sample.shape[1:]))
