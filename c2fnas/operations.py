"""The parts of a cell: convolution with norm, blocks, stride-2 convolution, trilinear doubling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from c2fnas import doubling, genotype, keras_stack
from c2fnas.named_weights import NamedLayers

Step = Callable[[tf.Tensor], tf.Tensor]  # float [b, x, y, z, c] to float [b, x, y, z, c]


@tf.keras.utils.register_keras_serializable(package="c2fnas")
class TrilinearUpsampling(tf.keras.layers.Layer):
    """Doubles x, y and z: float [b, x, y, z, c] to [b, 2x, 2y, 2z, c].

    Centres lie at half pixels and edges are clamped. Along each axis a new voxel is 0.75 of the
    nearest old one plus 0.25 of the next one.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return doubling.double(inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, x, y, z, channels = input_shape
        return (batch, *(None if n is None else 2 * n for n in (x, y, z)), channels)


@tf.keras.utils.register_keras_serializable(package="c2fnas")
class UpsampledConv3D(tf.keras.layers.Conv3D):
    """Trilinear doubling and a 3x3x3 convolution in one layer.

    float [b, x, y, z, c] to [b, 2x, 2y, 2z, filters]. Weights and values are those of
    TrilinearUpsampling followed by Conv3D with `same` padding; doubling.py explains why this is
    faster.
    """

    def __init__(self, filters: int, **kwargs: Any):
        super().__init__(filters, **{"kernel_size": 3, "padding": "same", **kwargs})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = doubling.double_and_convolve(inputs, tf.cast(self.kernel, inputs.dtype))
        return (
            tf.nn.bias_add(outputs, tf.cast(self.bias, outputs.dtype)) if self.use_bias else outputs
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, x, y, z, _ = input_shape
        return (batch, *(None if n is None else 2 * n for n in (x, y, z)), self.filters)


class ConvNorm:
    """A convolution and its instance norm; called on float [b, x, y, z, c].

    Args:
      layers: where the layers get their canonical names.
      name: canonical name of the weights.
      filters: number of output channels.
      kernel: x, y, z in voxels.
      stride: 1 or 2. With 2, one voxel of zeros is padded on each side and the convolution is
        `valid`: TensorFlow's `same` would sample other positions.
      norm: whether there is an instance norm.
      bias: whether the convolution has a bias.
      double: whether the volume is doubled first; the kernel is then 3x3x3.
      relu_first: whether a ReLU is applied to the input. It comes after the padding, which does not
        change any value but leaves one volume instead of two to keep for the gradients.
      full_precision: whether it computes in float32 whatever the network's precision.
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
        self.steps: list[Step] = []
        keras_name = name.replace("/", "_")
        if stride == 2:
            self.steps.append(tf.keras.layers.ZeroPadding3D(1, name=f"{keras_name}_pad"))
        if relu_first:
            self.steps.append(relu(name))
        # named_weights.initial sets the initial values later.
        common: dict[str, Any] = {
            "use_bias": bias,
            "kernel_initializer": "zeros",
            "name": f"{keras_name}_conv",
        }
        if full_precision:
            common["dtype"] = "float32"
        if double:
            convolution = UpsampledConv3D(filters, **common)
        else:
            padding = "valid" if stride == 2 else "same"
            convolution = tf.keras.layers.Conv3D(
                filters, kernel, strides=stride, padding=padding, **common
            )
        self.steps.append(layers.add(name, convolution))
        if norm:
            self.steps.append(
                layers.add(
                    name, keras_stack.instance_norm(f"{keras_name}_norm", layers.instance_norm)
                )
            )

    def __call__(self, voxels: tf.Tensor) -> tf.Tensor:
        for step in self.steps:
            voxels = step(voxels)
        return voxels


class OperationBlock:
    """The block of an operation: ReLU, its convolutions without bias, instance norm.

    Args:
      layers: where the layers get their canonical names.
      name: canonical name of the operation.
      op: one of `genotype.OPERATIONS`.
      filters: number of channels in and out.
    """

    def __init__(self, layers: NamedLayers, name: str, op: str, filters: int):
        self.relu = relu(name)
        kernels = genotype.OPERATIONS[op]
        last = list(kernels)[-1]
        self.convolutions = [
            ConvNorm(
                layers,
                f"{name}/{weight}".removesuffix("/kernel"),
                filters,
                kernel,
                norm=weight == last,
            )
            for weight, kernel in kernels.items()
        ]

    def __call__(self, voxels: tf.Tensor) -> tf.Tensor:
        voxels = self.relu(voxels)
        for convolution in self.convolutions:
            voxels = convolution(voxels)
        return voxels


class UpBlock:
    """Trilinear doubling, ReLU, a 1x1x1 convolution, instance norm."""

    def __init__(self, layers: NamedLayers, name: str, filters: int):
        self.double = TrilinearUpsampling(name=f"{name.replace('/', '_')}_double")
        self.block = ConvNorm(layers, name, filters, (1, 1, 1), relu_first=True)

    def __call__(self, voxels: tf.Tensor) -> tf.Tensor:
        return self.block(self.double(voxels))


def relu(name: str) -> tf.keras.layers.ReLU:
    """Returns a ReLU layer whose name is made from a canonical name."""
    return tf.keras.layers.ReLU(name=f"{name.replace('/', '_')}_relu")
