"""What a cell is made of: convolutions with their norm, blocks, the stride-2 convolution and the
trilinear doubling.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from c2fnas import doubling, genotype, keras_stack
from c2fnas.named_weights import NamedLayers

keras = tf.keras


@keras.utils.register_keras_serializable(package="c2fnas")
class TrilinearUpsampling(keras.layers.Layer):
    """Doubles x, y and z: float [b, x, y, z, c] to [b, 2x, 2y, 2z, c].

    Half-pixel centres and clamped edges, so every new voxel is 0.75 of the nearest old one and 0.25
    of the next along each axis.
    """

    def call(self, inputs):
        return doubling.double(inputs)

    def compute_output_shape(self, input_shape):
        batch, x, y, z, channels = input_shape
        return (batch, *(None if n is None else 2 * n for n in (x, y, z)), channels)


@keras.utils.register_keras_serializable(package="c2fnas")
class UpsampledConv3D(keras.layers.Conv3D):
    """Trilinear doubling and a 3x3x3 convolution in one: float [b, x, y, z, c] to [b, 2x, 2y, 2z,
    filters].

    Weights and values are those of TrilinearUpsampling followed by Conv3D with `same` padding; see
    doubling.py for why.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(filters, **{"kernel_size": 3, "padding": "same", **kwargs})

    def call(self, inputs):
        outputs = doubling.double_and_convolve(inputs, tf.cast(self.kernel, inputs.dtype))
        return (
            tf.nn.bias_add(outputs, tf.cast(self.bias, outputs.dtype)) if self.use_bias else outputs
        )

    def compute_output_shape(self, input_shape):
        batch, x, y, z, _ = input_shape
        return (batch, *(None if n is None else 2 * n for n in (x, y, z)), self.filters)


class ConvNorm:
    """A convolution and, unless `norm` is false, its instance norm. Called on float [b, x, y, z,
    c].

    The convolution has a bias only where `bias` is true. With stride 2 one voxel is padded on each
    side explicitly and the convolution is `valid`: TensorFlow's `same` would sample other
    positions. With `double` the volume is doubled first; the kernel is 3x3x3 then. With
    `relu_first` the input goes through a ReLU: after the padding, which changes no value, so that
    one volume waits for the gradients of both, not two. With `full_precision` it computes in
    float32 whatever the network's precision is.
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
        double: bool = False,
        relu_first: bool = False,
        full_precision: bool = False,
    ):
        self.steps: list[Any] = []
        keras_name = name.replace("/", "_")
        if stride == 2:
            self.steps.append(keras.layers.ZeroPadding3D(1, name=f"{keras_name}_pad"))
        if relu_first:
            self.steps.append(relu(name))
        # The kernel's start values are named_weights.initial's.
        common = {"use_bias": bias, "kernel_initializer": "zeros", "name": f"{keras_name}_conv"}
        if full_precision:
            common["dtype"] = "float32"
        if double:
            convolution = UpsampledConv3D(filters, **common)
        else:
            padding = "valid" if stride == 2 else "same"
            convolution = keras.layers.Conv3D(
                filters, kernel, strides=stride, padding=padding, **common
            )
        self.steps.append(layers.add(name, convolution))
        if norm:
            self.steps.append(
                layers.add(
                    name, keras_stack.instance_norm(f"{keras_name}_norm", layers.instance_norm)
                )
            )

    def __call__(self, voxels):
        for step in self.steps:
            voxels = step(voxels)
        return voxels


class Block:
    """ReLU, one or two convolutions without bias, instance norm."""

    def __init__(
        self,
        layers: NamedLayers,
        name: str,
        filters: int,
        kernel: tuple[int, int, int],
        *,
        stride: int = 1,
    ):
        self.conv_norm = ConvNorm(layers, name, filters, kernel, stride=stride, relu_first=True)

    def __call__(self, voxels):
        return self.conv_norm(voxels)


class OperationBlock:
    """The block of a searched operation: in plane (3, 3, 1), 3D (3, 3, 3), or pseudo-3D (3, 3, 1)
    then (1, 1, 3).
    """

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
