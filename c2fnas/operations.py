"""What a cell is made of: convolutions with their norm, blocks, the stride-2 convolution and the trilinear doubling."""

from __future__ import annotations

import math
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
        # Along each axis the doubling is a small matrix: on a CPU its product is 2 to 3 times faster, forward and backward,
        # than shifted slices that are stacked. z first: the tensor is smallest then.
        doubled = inputs
        for axis in (3, 2, 1):
            doubled = _double(doubled, axis)
        return doubled

    def compute_output_shape(self, input_shape):
        batch, x, y, z, channels = input_shape
        return (batch, *(None if n is None else 2 * n for n in (x, y, z)), channels)


def _double(voxels: tf.Tensor, axis: int) -> tf.Tensor:
    dynamic = tf.shape(voxels)
    shape = [dynamic[i] if n is None else n for i, n in enumerate(voxels.shape)]
    columns = tf.reshape(voxels, [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])])
    doubled = tf.matmul(_doubling_matrix(shape[axis]), columns)
    shape[axis] = 2 * shape[axis]
    return tf.reshape(doubled, shape)


def _doubling_matrix(size) -> tf.Tensor:
    """Returns float32 [2 * size, size]: row 2i is 0.75 of voxel i and 0.25 of i - 1, row 2i + 1 of i + 1, clamped."""
    row = tf.range(2 * size)
    near = row // 2
    other = tf.clip_by_value(near + 2 * (row % 2) - 1, 0, size - 1)
    return 0.75 * tf.one_hot(near, size) + 0.25 * tf.one_hot(other, size)


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
