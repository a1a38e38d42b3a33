"""The tf.data edge: batches of the sampler as a dataset."""

from __future__ import annotations

import tensorflow as tf

from preprocessing.patches import PatchSampler


def training_dataset(sampler: PatchSampler, start_step: int, stop_step: int, *, prefetch: int = 2) -> tf.data.Dataset:
    """Returns the batches of steps start_step to stop_step - 1 in order, drawn ahead while the network computes.

    Elements are dicts as `PatchSampler.batch` returns them, with static shapes. Images stay float16: the step casts them.
    """
    config = sampler.config
    shapes = {
        "image": ((config.batch_size, *config.size, 1), tf.float16),
        "label": ((config.batch_size, *config.size), tf.uint8),
        "sample_seed": ((config.batch_size, 2), tf.int32),
    }

    def draw(step):
        batch = sampler.batch(int(step))
        return tuple(batch[name] for name in shapes)

    def load(step):
        arrays = tf.numpy_function(draw, [step], [dtype for _, dtype in shapes.values()], stateful=False)
        return {name: tf.ensure_shape(array, shape) for array, (name, (shape, _)) in zip(arrays, shapes.items(), strict=True)}

    options = tf.data.Options()
    # One process reads one list of cases: splitting batches among replicas is all the sharding there is.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return (
        tf.data.Dataset.range(start_step, stop_step)
        .map(load, num_parallel_calls=1, deterministic=True)
        .prefetch(prefetch)
        .with_options(options)
    )
