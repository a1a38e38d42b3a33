"""Computes the samples of a batch one by one, several at the same time.

This is how a step is divided among the cores of a CPU. Nothing in this network mixes samples: its
norms act on one sample at a time, and losses and gradients are sums over samples. Two cores that
share each operation of a whole batch wait for each other at every operation; two cores with one
sample each do not, and the parts that cannot be shared run on both at once. A step of two samples
on two cores takes a sixth less time (tests/benchmarks/network_speed.py). Whatever the size of the
batch, only the samples being computed need memory for their activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import tensorflow as tf

Sums = TypeVar("Sums")  # any structure of tensors that tf.nest supports


def summed(
    compute: Callable[..., tuple[Sums, tf.Tensor]],
    samples: Sequence[tf.Tensor],
    sums_like: Sums,
    *,
    at_once: int,
) -> tuple[Sums, tf.Tensor]:
    """Calls `compute` for each sample; adds up its first result and stacks its second.

    Call it while a graph is being traced.

    Args:
      compute: takes a batch of one, cut from each of `samples`; returns (a structure of float32
        tensors, float32 [1]).
      samples: tensors [b, ...] with a known b.
      sums_like: tensors or tf.TensorSpec in the structure of the first result, for their shapes.
      at_once: number of samples that are computed at the same time; TensorFlow needs as many
        threads between operations.
    Returns:
      The sums over the samples, added up in their order, and float32 [b].
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


def map_samples(
    compute: Callable[[tf.Tensor], tf.Tensor], batch: tf.Tensor, *, at_once: int
) -> tf.Tensor:
    """Calls `compute` for each sample and returns the results as one batch.

    Call it while a graph is being traced.

    Args:
      compute: takes a batch of one, cut from `batch`; returns float32 [1, x, y, z, c].
      batch: [b, x, y, z, ...] with a known b.
      at_once: as in `summed`.
    Returns:
      float32 [b, x, y, z, c].
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
