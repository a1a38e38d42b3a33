"""The sizes of a tensor, for reshaping it with few operations.

On Keras 2 every layer is traced when a network is built; there the number of operations decides how
long that takes.
"""

from __future__ import annotations

import tensorflow as tf


def sizes(tensor: tf.Tensor) -> list[int | tf.Tensor]:
    """Returns the sizes for a `tf.reshape` of as many samples as the tensor has.

    Args:
      tensor: of known rank; the first axis is that of the samples.
    Returns:
      One size per axis: an int if it is known, else a scalar int32. An unknown number of samples is
      -1, which `tf.reshape` works out.
    """
    samples, *others = tensor.shape.as_list()
    samples = -1 if samples is None else samples
    if None not in others:
        return [samples, *others]
    dynamic = tf.unstack(tf.shape(tensor))[1:]
    return [
        samples,
        *(found if size is None else size for size, found in zip(others, dynamic, strict=True)),
    ]
