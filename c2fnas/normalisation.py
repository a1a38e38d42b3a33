"""The arithmetic of instance normalisation, written for the speed of a training step on a CPU."""

from __future__ import annotations

import tensorflow as tf

# Below these sizes one batch-wide pass over a small tensor costs less than starting one operation for each sample.
_FUSED_VOXELS = 20**3
_FUSED_SAMPLES = 8


def instance_normalise(voxels, gamma, beta, *, epsilon: float):
    """Returns each channel of each sample shifted and scaled to mean `beta` and standard deviation `gamma` over x, y, z.

    Args:
      voxels: float [b, x, y, z, c].
      gamma, beta: float [c].
      epsilon: added to the variance.
    Returns:
      float [b, x, y, z, c].

    For one sample, normalising an instance is normalising a batch in training, for which TensorFlow has a fused operation
    with a fused gradient: 3 times faster at 48x48x48x8, 1.5 times at 24x24x24x16, and slower on small grids, where means
    and variances are computed in the open. Both are the same function up to rounding.
    """
    samples, *grid, channels = voxels.shape
    known = samples is not None and all(n is not None for n in grid)
    if known and samples <= _FUSED_SAMPLES and grid[0] * grid[1] * grid[2] >= _FUSED_VOXELS:
        planes = tf.reshape(voxels, [samples, grid[0] * grid[1], grid[2], channels])
        normalised = [
            tf.raw_ops.FusedBatchNormV3(
                x=sample, scale=gamma, offset=beta, mean=(), variance=(), epsilon=epsilon, exponential_avg_factor=1.0, is_training=True
            ).y
            for sample in (tf.split(planes, samples, axis=0) if samples > 1 else [planes])
        ]
        return tf.reshape(tf.concat(normalised, axis=0) if samples > 1 else normalised[0], voxels.shape)
    mean, variance = tf.nn.moments(voxels, axes=[1, 2, 3], keepdims=True)
    return tf.nn.batch_normalization(voxels, mean, variance, beta, gamma, epsilon)
