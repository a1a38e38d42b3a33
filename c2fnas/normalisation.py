"""The arithmetic of instance normalisation, written for the speed and the accuracy of a training
step on a CPU.

Candidates measured (tests/benchmarks/block_candidates.py), forward and backward: TensorFlow's fused
batch norm a sample at a time is the fastest on large grids, but oneDNN adds a channel up voxel by
voxel in float32, which leaves an error of 1e-4 at 64x64x64; a network of 36 norms amplifies it.
Adding up in rows costs a third more time on the two largest grids, none on the others, and its
error is 1e-6. So sums are made here and the gradient, where such an error does no harm, comes from
the fused operation.
"""

from __future__ import annotations

import math

import tensorflow as tf

# One fused operation for each sample: with more of them than this, starting them costs more than
# the open formula.
_FUSED_SAMPLES = 8
_FUSED_VOXELS = 16**3  # and with fewer voxels in each


def instance_normalise(voxels, gamma, beta, *, epsilon: float):
    """Returns each channel of each sample shifted and scaled to mean `beta` and standard deviation
    `gamma` over x, y, z.

    Args:
      voxels: float [b, x, y, z, c]; mean, variance and their sums are float32 whatever its type.
      gamma, beta: float [c].
      epsilon: added to the variance.
    Returns:
      float [b, x, y, z, c] of the type of `voxels`.
    """
    gamma, beta = tf.cast(gamma, tf.float32), tf.cast(beta, tf.float32)
    if tf.config.list_logical_devices("GPU") and _known(voxels):
        return _fused(
            voxels, gamma, beta, epsilon
        )  # cuDNN: accurate sums, and half precision without a copy
    return tf.cast(_in_rows(tf.cast(voxels, tf.float32), gamma, beta, epsilon), voxels.dtype)


def _in_rows(voxels, gamma, beta, epsilon: float):
    @tf.custom_gradient
    def normalise(voxels, gamma, beta):
        rows = _Rows(voxels)
        mean = rows.sums(rows.values) / rows.count
        # Less the mean first: folded into one shift, a channel that is all but constant would lose
        # its last three digits.
        centred = rows.values - rows.spread(mean)
        variance = rows.sums(tf.square(centred)) / rows.count
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = gamma * inverse
        normalised = centred * rows.spread(scale) + rows.spread(
            tf.tile(beta[tf.newaxis], [rows.samples, 1])
        )

        def gradient(upstream):
            if (
                _known(voxels)
                and voxels.shape[0] <= _FUSED_SAMPLES
                and math.prod(voxels.shape[1:4]) >= _FUSED_VOXELS
            ):
                return _fused_gradient(upstream, voxels, gamma, mean, variance, epsilon)
            above = tf.reshape(upstream, rows.shape)
            to_beta = rows.sums(above)  # [b, c], as everything that follows
            to_gamma = (rows.sums(above * rows.values) - mean * to_beta) * inverse
            slope = -scale * inverse * to_gamma / rows.count
            constant = -scale * to_beta / rows.count - slope * mean
            to_voxels = above * rows.spread(scale) + (
                rows.values * rows.spread(slope) + rows.spread(constant)
            )
            return (
                tf.reshape(to_voxels, tf.shape(voxels)),
                tf.reduce_sum(to_gamma, 0),
                tf.reduce_sum(to_beta, 0),
            )

        result = tf.reshape(normalised, tf.shape(voxels))
        return tf.ensure_shape(result, voxels.shape), gradient

    return normalise(voxels, gamma, beta)


class _Rows:
    """A volume as [b, x, y, z * c]: rows long enough to fill vector units, where c alone would not
    be.
    """

    def __init__(self, voxels):
        static, dynamic = voxels.shape, tf.shape(voxels)
        self.samples, x, y, self.depth, self.channels = (
            dynamic[i] if n is None else n for i, n in enumerate(static)
        )
        self.shape = [self.samples, x, y, self.depth * self.channels]
        self.values = tf.reshape(voxels, self.shape)
        self.count = tf.cast(x * y * self.depth, tf.float32)

    def sums(self, values):
        """Returns [b, c]: y, then x, then z, so that no float32 adds up more values than an axis
        has.
        """
        lanes = tf.reduce_sum(tf.reduce_sum(values, axis=2), axis=1)
        return tf.reduce_sum(tf.reshape(lanes, [self.samples, self.depth, self.channels]), axis=1)

    def spread(self, values):
        """Returns [b, c] as [b, 1, 1, z * c]."""
        tiled = tf.tile(values[:, tf.newaxis, :], [1, self.depth, 1])
        return tf.reshape(tiled, [self.samples, 1, 1, self.depth * self.channels])


def _fused_gradient(upstream, voxels, gamma, mean, variance, epsilon: float):
    samples, x, y, z, channels = voxels.shape
    planes = (samples, x * y, z, channels)
    pairs = zip(
        tf.split(tf.reshape(upstream, planes), samples),
        tf.split(tf.reshape(voxels, planes), samples),
        strict=True,
    )
    parts = [
        tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=above,
            x=sample,
            scale=gamma,
            reserve_space_1=mean[index],
            reserve_space_2=variance[index],
            reserve_space_3=tf.zeros([0]),
            epsilon=epsilon,
            is_training=True,
        )
        for index, (above, sample) in enumerate(pairs)
    ]
    to_voxels = tf.reshape(_joined([part.x_backprop for part in parts]), voxels.shape)
    return (
        to_voxels,
        tf.add_n([part.scale_backprop for part in parts]),
        tf.add_n([part.offset_backprop for part in parts]),
    )


def _fused(voxels, gamma, beta, epsilon: float):
    samples, x, y, z, channels = voxels.shape
    parts = [
        tf.raw_ops.FusedBatchNormV3(
            x=sample,
            scale=gamma,
            offset=beta,
            mean=(),
            variance=(),
            epsilon=epsilon,
            exponential_avg_factor=1.0,
            is_training=True,
        ).y
        for sample in tf.split(tf.reshape(voxels, [samples, x * y, z, channels]), samples)
    ]
    return tf.reshape(_joined(parts), voxels.shape)


def _joined(parts):
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)  # of one, concat makes a copy


def _known(voxels) -> bool:
    return voxels.shape.is_fully_defined()
