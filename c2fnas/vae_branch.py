"""The variational auto-encoder at the encoder's end.

It regularises the shared encoder during training and changes no logit. A dense layer estimates the
standard deviation of the latent distribution, which is its softplus plus 1e-6.
Source: Myronenko 2018 (arXiv 1810.11654), with two dense heads of size 128 as in the federated
pancreas study.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import tensorflow as tf

from c2fnas import genotype, keras_stack
from c2fnas.allowed_values import VaeKind
from c2fnas.named_weights import VAE_PREFIX, NamedLayers
from c2fnas.operations import ConvNorm, Step, TrilinearUpsampling

if TYPE_CHECKING:
    from c2fnas.network import Network

REDUCED_CHANNELS = 16


@tf.keras.utils.register_keras_serializable(package="c2fnas")
class PositiveDeviation(tf.keras.layers.Layer):
    """Softplus plus 1e-6: float [b, n] to float [b, n] above 0."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.softplus(inputs) + 1e-6

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


class VaeBranch:
    """The branch, called on the encoder's end and noise.

    It takes (encoder's end float [b, x, y, z, c], noise float [b, latent_size]) and returns
    (reconstruction float [b, *patch_size, 1], mean [b, latent_size], std [b, latent_size]).

    Args:
      layers: registry in which the branch's layers get their canonical names.
      architecture: genotype of the network; level l of the decoder has filters * 2**l, like the
        encoder.
      patch_size: x, y, z in voxels; the dense layers work only for this size.
      kind: "reduced" applies a stride-2 convolution to 16 channels before the dense layers;
        "direct" flattens the encoder's end itself. At full size their dense layers have 0.17
        million and 42.6 million weights.
      latent_size: size of mean, standard deviation and noise.
    Raises:
      ValueError: for another kind or a latent size below 1.
    """

    def __init__(
        self,
        layers: NamedLayers,
        architecture: genotype.Genotype,
        patch_size: tuple[int, int, int],
        *,
        kind: str,
        latent_size: int,
    ):
        known = get_args(VaeKind)
        if kind not in known:
            raise ValueError(
                f"vae is {kind!r}; expected one of {', '.join(known)}, or None for no branch"
            )
        if latent_size < 1:
            raise ValueError(f"latent_size is {latent_size}; expected at least 1")
        depth = architecture.depth
        end_grid = tuple(n // 2**depth for n in patch_size)
        self.before: list[Step] = []
        self.after: list[Step] = []
        if kind == "reduced":
            grid, channels = tuple(math.ceil(n / 2) for n in end_grid), REDUCED_CHANNELS
            self.before = [
                layers.add(
                    "vae/reduce", keras_stack.instance_norm("vae_reduce_norm", layers.instance_norm)
                ),
                tf.keras.layers.ReLU(name="vae_reduce_relu"),
                ConvNorm(layers, "vae/reduce", channels, (3, 3, 3), stride=2, norm=False),
            ]
            # An odd size (3 voxels for a patch of 48) was reduced to half the next even size.
            crop = tuple((0, 2 * reduced - n) for reduced, n in zip(grid, end_grid, strict=True))
            self.after = [
                TrilinearUpsampling(name="vae_restore_double"),
                tf.keras.layers.Cropping3D(crop, name="vae_restore_crop"),
            ]
        else:
            grid, channels = end_grid, architecture.filters_at(depth)
        self.flatten = tf.keras.layers.Flatten(name="vae_flatten")
        self.mean = _dense(layers, "vae/mean", latent_size, dtype="float32")
        self.deviation = _dense(layers, "vae/std", latent_size, dtype="float32")
        self.positive = PositiveDeviation(name="vae_std_positive", dtype="float32")
        self.scale_noise = tf.keras.layers.Multiply(name="vae_noise", dtype="float32")
        self.sample = tf.keras.layers.Add(name="vae_latent", dtype="float32")
        self.recover = _dense(layers, "vae/recover", math.prod(grid) * channels)
        self.unflatten = [
            tf.keras.layers.ReLU(name="vae_recover_relu"),
            tf.keras.layers.Reshape((*grid, channels), name="vae_recover_grid"),
        ]
        self.scales = [
            _Scale(layers, f"vae/level{level}", architecture.filters_at(level))
            for level in range(depth - 1, 0, -1)
        ]
        self.end = ConvNorm(
            layers, "vae/end", 1, (3, 3, 3), norm=False, bias=True, double=True, full_precision=True
        )

    def __call__(
        self, encoder_end: tf.Tensor, noise: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        voxels = encoder_end
        for step in self.before:
            voxels = step(voxels)
        features = self.flatten(voxels)
        mean = self.mean(features)
        deviation = self.positive(self.deviation(features))
        voxels = self.recover(self.sample([mean, self.scale_noise([deviation, noise])]))
        steps: tuple[Step, ...] = (*self.unflatten, *self.after, *self.scales, self.end)
        for step in steps:
            voxels = step(voxels)
        return voxels, mean, deviation


class _Scale:
    """One scale of the decoder.

    A 1x1x1 convolution, trilinear doubling, and a residual block of two norm-ReLU-convolutions.
    """

    def __init__(self, layers: NamedLayers, name: str, filters: int):
        keras_name = name.replace("/", "_")
        self.enter: list[Step] = [
            ConvNorm(layers, f"{name}/narrow", filters, (1, 1, 1), norm=False),
            TrilinearUpsampling(name=f"{keras_name}_double"),
        ]
        self.residual: list[Step] = []
        for part in ("residual0", "residual1"):
            self.residual += [
                layers.add(
                    f"{name}/{part}",
                    keras_stack.instance_norm(f"{keras_name}_{part}_norm", layers.instance_norm),
                ),
                tf.keras.layers.ReLU(name=f"{keras_name}_{part}_relu"),
                ConvNorm(layers, f"{name}/{part}", filters, (3, 3, 3), norm=False),
            ]
        self.add = tf.keras.layers.Add(name=f"{keras_name}_sum")

    def __call__(self, voxels: tf.Tensor) -> tf.Tensor:
        for step in self.enter:
            voxels = step(voxels)
        identity = voxels
        for step in self.residual:
            voxels = step(voxels)
        return self.add([identity, voxels])


def _dense(
    layers: NamedLayers, name: str, units: int, dtype: str | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    # The latent distribution is float32 whatever the network's precision: the KL divergence squares
    # it and takes its logarithm.
    return layers.add(
        name,
        tf.keras.layers.Dense(
            units, kernel_initializer="zeros", name=f"{name.replace('/', '_')}_dense", dtype=dtype
        ),
    )


def cost(network: Network) -> tuple[int, int]:
    """Returns (weights, multiply-accumulates for one patch) of a network's VAE branch.

    Voxels at the border count with a full kernel. A doubling with its convolution counts as that
    convolution on the doubled grid, however it is computed. Without a branch both numbers are 0.
    """
    weights = sum(
        math.prod(variable.shape)
        for name, variable in network.variables.items()
        if name.startswith(VAE_PREFIX)
    )
    macs = 0
    for layer in network.trainer.layers:
        if layer.name.startswith("vae_") and hasattr(layer, "kernel"):
            voxels = math.prod(layer.output.shape[1:4]) if len(layer.kernel.shape) == 5 else 1
            macs += voxels * math.prod(layer.kernel.shape)
    return int(weights), int(macs)
