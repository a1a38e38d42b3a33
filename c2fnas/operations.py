"""What a cell is made of: convolutions with their norm, blocks, the stride-2 convolution and the trilinear doubling."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from c2fnas import genotype, keras_stack
from c2fnas.named_weights import NamedLayers

keras = tf.keras


@keras.utils.register_keras_serializable(package="c2fnas")
class TrilinearUpsampling(keras.layers.Layer):
    """Doubles x, y and z: float [b, x, y, z, c] to [b, 2x, 2y, 2z, c].

    Half-pixel centres and clamped edges, so every new voxel is 0.75 of the nearest old one and 0.25 of the next along each
    axis. The same as PyTorch's trilinear interpolation with align_corners=False.
    """

    def call(self, inputs):
        doubled = inputs
        for axis in (3, 2, 1):
            doubled = _double(doubled, axis)
        return doubled

    def compute_output_shape(self, input_shape):
        batch, x, y, z, channels = input_shape
        return (batch, *(None if n is None else 2 * n for n in (x, y, z)), channels)


def _double(voxels: tf.Tensor, axis: int) -> tf.Tensor:
    size = tf.shape(voxels)[axis]
    first, last = tf.gather(voxels, [0], axis=axis), tf.gather(voxels, [size - 1], axis=axis)
    begin = [0] * 5
    begin[axis] = 1
    shape = [-1] * 5
    shape[axis] = size - 1
    before = tf.concat([first, tf.slice(voxels, [0] * 5, shape)], axis)
    after = tf.concat([tf.slice(voxels, begin, [-1] * 5), last], axis)
    near = 0.75 * voxels
    pairs = tf.stack([near + 0.25 * before, near + 0.25 * after], axis + 1)
    static = voxels.shape.as_list()
    dynamic = tf.shape(voxels)
    target = [static[i] if static[i] is not None else dynamic[i] for i in range(5)]
    target[axis] = 2 * target[axis]
    return tf.reshape(pairs, target)


class ConvNorm:
    """A convolution and, unless `norm` is false, its instance norm. Called on float [b, x, y, z, c].

    The convolution has a bias only where `bias` is true. With stride 2 one voxel is padded on each side explicitly and the
    convolution is `valid`: TensorFlow's `same` would sample other positions.
    """

    def __init__(
        self,
        layers: NamedLayers,
        name: str,
        filters: int,
        kernel: tuple[int, int, int],
        *,
        stride: int = 1,
        norm: bool = True,
        bias: bool = False,
    ):
        self.steps: list[Any] = []
        keras_name = name.replace("/", "_")
        if stride == 2:
            self.steps.append(keras.layers.ZeroPadding3D(1, name=f"{keras_name}_pad"))
        convolution = keras.layers.Conv3D(
            filters,
            kernel,
            strides=stride,
            padding="valid" if stride == 2 else "same",
            use_bias=bias,
            kernel_initializer="zeros",  # named_weights.initial sets it
            name=f"{keras_name}_conv",
        )
        self.steps.append(layers.add(name, convolution))
        if norm:
            self.steps.append(layers.add(name, keras_stack.instance_norm(f"{keras_name}_norm")))

    def __call__(self, voxels):
        for step in self.steps:
            voxels = step(voxels)
        return voxels


class Block:
    """ReLU, one or two convolutions without bias, instance norm."""

    def __init__(self, layers: NamedLayers, name: str, filters: int, kernel: tuple[int, int, int], *, stride: int = 1):
        self.relu = relu(name)
        self.conv_norm = ConvNorm(layers, name, filters, kernel, stride=stride)

    def __call__(self, voxels):
        return self.conv_norm(self.relu(voxels))


class OperationBlock:
    """The block of a searched operation: in plane (3, 3, 1), 3D (3, 3, 3), or pseudo-3D (3, 3, 1) then (1, 1, 3)."""

    def __init__(self, layers: NamedLayers, name: str, op: genotype.Operation, filters: int):
        self.relu = relu(name)
        kernels = genotype.KERNELS[op]
        names = [f"{name}/{kernel}".removesuffix("/kernel") for kernel in genotype.kernel_names(op)]
        last = len(kernels) - 1
        self.convolutions = [
            ConvNorm(layers, conv_name, filters, kernel, norm=index == last)
            for index, (conv_name, kernel) in enumerate(zip(names, kernels, strict=True))
        ]

    def __call__(self, voxels):
        voxels = self.relu(voxels)
        for convolution in self.convolutions:
            voxels = convolution(voxels)
        return voxels


class UpBlock:
    """Trilinear doubling, ReLU, a 1x1x1 convolution, instance norm."""

    def __init__(self, layers: NamedLayers, name: str, filters: int):
        self.double = TrilinearUpsampling(name=f"{name.replace('/', '_')}_double")
        self.block = Block(layers, name, filters, (1, 1, 1))

    def __call__(self, voxels):
        return self.block(self.double(voxels))


def relu(name: str) -> Any:
    return keras.layers.ReLU(name=f"{name.replace('/', '_')}_relu")
