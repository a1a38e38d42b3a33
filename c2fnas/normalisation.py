"""The arithmetic of instance normalisation, fast and accurate in a training step on a CPU.

tests/benchmarks/block_candidates.py compares the candidates, forward and backward. TensorFlow's
fused batch norm, one sample at a time, is the fastest on large grids. But oneDNN adds up a channel
voxel by voxel in float32, which leaves an error of 1e-4 at 64x64x64, and a network of 36 norms
amplifies it. Adding up in rows has an error of 1e-6; it takes a third longer on the two largest
grids and no longer on the others. The forward pass therefore adds up in rows, and the gradient,
where such an error is harmless, comes from the fused operation.
"""

from __future__ import annotations

import math

import tensorflow as tf

from c2fnas import gpus
from c2fnas.sizes import sizes

# The gradient takes one fused operation per sample. With more samples than this, or fewer voxels
# per sample, starting the operations costs more than the explicit formula.
_FUSED_SAMPLES = 8
_FUSED_VOXELS = 16**3


@tf.autograph.experimental.do_not_convert  # no control flow here depends on a tensor
def instance_normalise(
    voxels: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float
) -> tf.Tensor:
    """Normalises each channel of each sample to mean `beta` and standard deviation `gamma`.

    Args:
      voxels: float [b, x, y, z, c]; mean, variance and their sums are float32 whatever its type.
      gamma, beta: float [c]; on a GPU also [b, c], one for each sample.
      epsilon: added to the variance.
    Returns:
      float [b, x, y, z, c] of the type of `voxels`.
    """
    gamma, beta = tf.cast(gamma, tf.float32), tf.cast(beta, tf.float32)
    if gpus.is_used() and _known(voxels):
        # cuDNN adds up accurately, and accepts half precision without a copy.
        return _fused(voxels, gamma, beta, epsilon)
    return tf.cast(_in_rows(tf.cast(voxels, tf.float32), gamma, beta, epsilon), voxels.dtype)


def _in_rows(voxels: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    @tf.custom_gradient
    def normalise(voxels, gamma, beta):
        rows = _Rows(voxels)
        mean = rows.sums(rows.values) / rows.count
        # The mean is subtracted first: in a combined scale and shift, an almost constant channel
        # would lose its last three digits.
        centred = rows.values - rows.spread(mean)
        variance = rows.sums(tf.square(centred)) / rows.count
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = gamma * inverse
        normalised = centred * rows.spread(scale) + rows.spread(tf.expand_dims(beta, 0))

        def gradient(upstream):
            if (
                _known(voxels)
                and voxels.shape[0] <= _FUSED_SAMPLES
                and math.prod(voxels.shape[1:4]) >= _FUSED_VOXELS
            ):
                return _fused_gradient(upstream, voxels, gamma, mean, variance, epsilon)
            above = tf.reshape(upstream, rows.shape)
            to_beta = rows.sums(above)  # [b, c], like the terms below
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
    """A volume as [b, x, y, z * c], whose rows are long enough to fill vector units.

    Shapes and axes are constants that are made once: a network has dozens of norms, and making a
    constant takes as long as making any other operation of a graph.
    """

    def __init__(self, voxels: tf.Tensor):
        samples, x, y, depth, channels = sizes(voxels)
        length = depth * channels
        self.shape = _once([samples, x, y, length])
        self._row = _once([-1, 1, 1, length])
        self._lanes = _once([samples, depth, channels])
        self._repeats = _once([1, depth])
        self._x, self._y = tf.constant(1), tf.constant(2)
        self.values = tf.reshape(voxels, self.shape)
        self.count = tf.cast(x * y * depth, tf.float32)

    def sums(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the sum of each channel of each sample, [b, c].

        It adds up along y, then x, then z, so no float32 sum has more terms than one axis.
        """
        lanes = tf.reduce_sum(tf.reduce_sum(values, axis=self._y), axis=self._x)
        return tf.reduce_sum(tf.reshape(lanes, self._lanes), axis=self._x)  # z is at 1 now

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Returns values [b, c] or [1, c] as [b or 1, 1, 1, z * c], to broadcast over rows."""
        return tf.reshape(tf.tile(values, self._repeats), self._row)


def _once(shape: list[int | tf.Tensor]) -> tf.Tensor:
    """Returns a shape as a tensor, which is made once, however often it is used."""
    return tf.constant(shape) if all(isinstance(size, int) for size in shape) else tf.stack(shape)


def _fused_gradient(
    upstream: tf.Tensor,
    voxels: tf.Tensor,
    gamma: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the gradients of voxels, gamma and beta, by one fused operation per sample."""
    samples, x, y, z, channels = voxels.shape
    planes, nothing = tf.constant([samples, x * y, z, channels]), tf.constant([], tf.float32)
    inputs = zip(
        _split(tf.reshape(upstream, planes), samples),
        _split(tf.reshape(voxels, planes), samples),
        tf.unstack(mean),
        tf.unstack(variance),
        strict=True,
    )
    parts = [
        tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=above,
            x=sample,
            scale=gamma,
            reserve_space_1=its_mean,
            reserve_space_2=its_variance,
            reserve_space_3=nothing,
            epsilon=epsilon,
            is_training=True,
        )
        for above, sample, its_mean, its_variance in inputs
    ]
    to_voxels = tf.reshape(_joined([part.x_backprop for part in parts]), voxels.shape)
    return (
        to_voxels,
        tf.add_n([part.scale_backprop for part in parts]),
        tf.add_n([part.offset_backprop for part in parts]),
    )


def _fused(voxels: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Returns the normalised voxels by one fused operation, for a GPU.

    It is a batch norm of a single sample, whose channels are those of all samples. They are moved
    first for it, which TensorFlow would otherwise do inside the operation, at least in float32:
    cuDNN's training norm takes float32 with channels first only. The gradient is written out,
    because TensorFlow's own for these operations has more than twice as many. Gamma and beta of
    each sample save repeating them here.
    """
    samples, x, y, z, channels = voxels.shape
    single = samples == 1
    form = {"epsilon": epsilon, "is_training": True, "data_format": "NHWC" if single else "NCHW"}

    def arranged(values: tf.Tensor) -> tf.Tensor:
        if single:
            return tf.reshape(values, [1, x * y, z, channels])
        first = tf.transpose(tf.reshape(values, [samples, x * y * z, channels]), [0, 2, 1])
        return tf.reshape(first, [1, samples * channels, x * y, z])

    def restored(values: tf.Tensor) -> tf.Tensor:
        if not single:
            values = tf.reshape(values, [samples, channels, x * y * z])
            values = tf.transpose(values, [0, 2, 1])
        return tf.reshape(values, [samples, x, y, z, channels])

    own = gamma.shape.rank == 2

    def repeated(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(values, [-1]) if single or own else tf.tile(values, [samples])

    def summed(values: tf.Tensor) -> tf.Tensor:
        if single or own:
            return tf.reshape(values, gamma.shape)
        return tf.reduce_sum(tf.reshape(values, [samples, channels]), axis=0)

    @tf.custom_gradient
    def normalise(voxels, gamma, beta):
        flat, scale = arranged(voxels), repeated(gamma)
        found = tf.raw_ops.FusedBatchNormV3(
            x=flat,
            scale=scale,
            offset=repeated(beta),
            mean=(),
            variance=(),
            exponential_avg_factor=1.0,
            **form,
        )

        def gradient(upstream):
            parts = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=arranged(upstream),
                x=flat,
                scale=scale,
                reserve_space_1=found.reserve_space_1,
                reserve_space_2=found.reserve_space_2,
                reserve_space_3=found.reserve_space_3,
                **form,
            )
            return (
                restored(parts.x_backprop),
                summed(parts.scale_backprop),
                summed(parts.offset_backprop),
            )

        return restored(found.y), gradient

    return normalise(voxels, gamma, beta)


def _split(samples: tf.Tensor, count: int) -> list[tf.Tensor]:
    return [samples] if count == 1 else tf.split(samples, count)  # split would copy a single one


def _joined(parts: list[tf.Tensor]) -> tf.Tensor:
    return (
        parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)
    )  # concat would copy a single one


def _known(voxels: tf.Tensor) -> bool:
    return voxels.shape.is_fully_defined()
