"""Batches of patches as a tf.data dataset. The patches themselves are NumPy (`patches.py`)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from preprocessing.patches import PatchSampler

_PARALLEL_BATCHES = 2  # batches cut at a time; copying releases the interpreter lock


def training_dataset(
    sampler: PatchSampler, start_step: int, stop_step: int, *, prefetch: int = 2
) -> tf.data.Dataset:
    """Returns the batches of steps start_step to stop_step - 1, in the same order on every run.

    Each element is a dict of image float16 [batch, x, y, z, 1], label uint8 [batch, x, y, z] and
    sample_seed int32 [batch, 2], with static shapes. Images stay in the stored float16; cast them
    in the compiled step. A batch is divided among the replicas of a distribution strategy.

    Args:
      prefetch: batches prepared ahead of the training step.
    """
    config = sampler.config
    batch, size = config.batch_size, tuple(config.size)
    shapes = {"image": (batch, *size, 1), "label": (batch, *size), "sample_seed": (batch, 2)}
    types = {"image": tf.float16, "label": tf.uint8, "sample_seed": tf.int32}

    def cut(step: np.ndarray) -> tuple[np.ndarray, ...]:
        patches = sampler.batch(int(step))
        return patches["image"], patches["label"], patches["sample_seed"]

    def load(step: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(cut, [step], [types[name] for name in shapes])
        return {
            name: tf.ensure_shape(value, shape)
            for (name, shape), value in zip(shapes.items(), values, strict=True)
        }

    dataset = tf.data.Dataset.range(start_step, stop_step).map(
        load, num_parallel_calls=_PARALLEL_BATCHES, deterministic=True
    )
    options = tf.data.Options()
    options.deterministic = True
    # Threads and buffers are fixed above. The thread that would tune them delays the end of every
    # dataset, i.e. of every epoch, by some tenths of a second.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    # Steps must not be distributed like files: every worker reads the whole sequence and takes its
    # part of each batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(prefetch).with_options(options)
