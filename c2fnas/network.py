"""Builds a keras.Model from a genotype.

One set of layers is applied twice: to volumes of any size, and to training patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from c2fnas import keras_stack, named_weights
from c2fnas.adam import Alternatives
from c2fnas.cells import Cell, MakeOperation
from c2fnas.genotype import Genotype, as_size
from c2fnas.keras_stack import Variable
from c2fnas.named_weights import NamedLayers
from c2fnas.operations import ConvNorm, OperationBlock, UpBlock, relu
from c2fnas.vae_branch import VaeBranch


class Network:
    """The segmentation network with its training-time branch. Make one with `build`.

    Attributes:
      genotype, patch_size, vae, latent_size, class_prior, precision, instance_norm: the arguments
        of `build`; vae is None without the branch.
      segmenter: keras.Model from image float32 [b, x, y, z, 1] in [-1, 1] to logits float32
        [b, x, y, z, classes]; x, y and z are any multiples of 2**depth of the genotype.
      trainer: keras.Model over the same layers for patches. With a VAE branch it takes
        [image, noise float32 [b, latent_size]] and returns a dict of logits, reconstruction
        [b, *patch_size, 1], mean and std [b, latent_size]; without one it takes the image and
        returns a dict with logits.
      variables: canonical name -> trainable variable, in the order of the forward pass.
      owners: canonical name -> (layer, its attribute with the variable).
      alternatives: groups of weights of which a step uses and changes one; none in a network that
        is not a supernet.
    """

    alternatives: tuple[Alternatives, ...] = ()

    def __init__(
        self,
        genotype: Genotype,
        *,
        patch_size: tuple[int, int, int],
        vae: str | None,
        latent_size: int,
        class_prior: tuple[float, ...] | None,
        precision: str,
        instance_norm: str,
    ):
        genotype.check_size(patch_size)
        if class_prior is not None and (
            len(class_prior) != genotype.classes or min(class_prior) <= 0
        ):
            raise ValueError(
                f"class_prior is {class_prior}; "
                f"expected {genotype.classes} shares above 0, one for each class"
            )
        self.genotype, self.patch_size, self.vae = genotype, patch_size, vae
        self.latent_size, self.class_prior = latent_size, class_prior
        self.precision, self.instance_norm = precision, instance_norm
        with keras_stack.precision(precision), keras_stack.shapes_without_tracing():
            self._build(NamedLayers(instance_norm))

    def _build(self, layers: NamedLayers) -> None:
        genotype, patch_size, vae, latent_size = (
            self.genotype,
            self.patch_size,
            self.vae,
            self.latent_size,
        )
        body = Body(layers, genotype)
        branch = (
            VaeBranch(layers, genotype, patch_size, kind=vae, latent_size=latent_size)
            if vae is not None
            else None
        )

        image = tf.keras.Input((None, None, None, 1), dtype="float32", name="image")
        self.segmenter = tf.keras.Model(image, body(image)[0], name="segmenter")

        patch = tf.keras.Input((*patch_size, 1), dtype="float32", name="patch")
        logits, encoder_end = body(patch)
        outputs = {"logits": logits}
        inputs: tf.Tensor | list[tf.Tensor] = patch
        if branch is not None:
            noise = tf.keras.Input((latent_size,), dtype="float32", name="noise")
            inputs = [patch, noise]
            outputs["reconstruction"], outputs["mean"], outputs["std"] = branch(encoder_end, noise)
        self.trainer = tf.keras.Model(inputs, outputs, name="trainer")
        self.variables: dict[str, Variable] = layers.variables()
        self.owners = layers.owners()

    def train_outputs(
        self, image: tf.Tensor | np.ndarray, noise: tf.Tensor | np.ndarray | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the trainer's outputs for a batch of patches.

        Args:
          image: float32 [b, *patch_size, 1].
          noise: float32 [b, latent_size], standard normal. None makes the latent vector the mean.
            Ignored without a VAE branch.
        Returns:
          The outputs of `trainer` by name.
        """
        image = tf.convert_to_tensor(image, tf.float32)
        if self.vae is None:
            return self.trainer(image, training=True)
        if noise is None:
            noise = tf.zeros((tf.shape(image)[0], self.latent_size), tf.float32)
        return self.trainer([image, tf.convert_to_tensor(noise, tf.float32)], training=True)


class Body:
    """Stem, cells and end.

    Called on an image, it returns (logits, output of the encoder's last cell).

    Args:
      layers: registry in which the layers get their canonical names.
      genotype: the whole network.
      operation_of: number of a cell -> the function that makes its operation.
    """

    def __init__(
        self,
        layers: NamedLayers,
        genotype: Genotype,
        operation_of: Callable[[int], MakeOperation] = lambda _: OperationBlock,
    ):
        self.genotype = genotype
        full, half = genotype.filters_at(0), genotype.filters_at(1)
        self.stem = [
            ConvNorm(layers, "stem/first", full, (3, 3, 3)),
            ConvNorm(layers, "stem/second", half, (3, 3, 3), stride=2, relu_first=True),
        ]
        self.cells = [
            Cell(layers, genotype, number, make_operation=operation_of(number))
            for number in range(1, len(genotype.cells) + 1)
        ]
        self.end_up = UpBlock(layers, "end/up", half) if genotype.end_doubles else None
        self.concatenate = tf.keras.layers.Concatenate(axis=-1, name="end_concatenate")
        self.end = [
            ConvNorm(layers, "end/first", half, (3, 3, 3), relu_first=True),
            *([relu("end/double")] if genotype.end_relu else []),
            ConvNorm(layers, "end/second", full, (3, 3, 3), double=True),
            ConvNorm(
                layers,
                "end/classifier",
                genotype.classes,
                (1, 1, 1),
                norm=False,
                bias=True,
                relu_first=True,
                full_precision=True,
            ),
        ]

    def __call__(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        voxels = image
        for step in self.stem:
            voxels = step(voxels)
        outputs = [voxels]
        for cell, gene in zip(self.cells, self.genotype.cells, strict=True):
            outputs.append(cell([outputs[source] for source in gene.inputs]))
        before_last = self.end_up(outputs[-2]) if self.end_up else outputs[-2]
        voxels = self.concatenate([outputs[-1], before_last])
        for step in self.end:
            voxels = step(voxels)
        return voxels, outputs[self.genotype.encoder_end]


def build(
    genotype: Genotype,
    *,
    patch_size: Sequence[int],
    vae: str | None = "reduced",
    latent_size: int = 128,
    class_prior: Sequence[float] | None = None,
    precision: str = "float32",
    instance_norm: str = "rows",
    seed: int = 0,
    make: Callable[..., Network] | None = None,
) -> Network:
    """Returns the network of a genotype with its initial values. Call it in `strategy.scope()`.

    Args:
      genotype: cells, filters and classes.
      patch_size: x, y, z of the training patches in voxels, each a multiple of 2**depth of the
        genotype.
      vae: "reduced", "direct" (see `VaeBranch`) or None.
      latent_size: size of the VAE branch's latent vector.
      class_prior: shares of the classes among the voxels. The classifier's bias starts at their
        logarithm, or at 0 with None.
      precision: "float32", "mixed_bfloat16" or "mixed_float16". Weights, the sums of the norms,
        logits and latent distribution are float32 in all of them.
      instance_norm: "rows" or "library", see `keras_stack.instance_norm`; weights and values are
        the same.
      seed: seed of the initial values, see `named_weights.initial`.
      make: callable that makes the network, with the arguments of `Network`; None makes a
        `Network`.
    Raises:
      ValueError: for a patch, prior, branch, precision, norm or latent size that does not fit; the
        message contains it.
    """
    network = (make or Network)(
        genotype,
        patch_size=as_size(patch_size),
        vae=vae,
        latent_size=latent_size,
        class_prior=None if class_prior is None else tuple(float(share) for share in class_prior),
        precision=precision,
        instance_norm=instance_norm,
    )
    named_weights.assign(network, named_weights.initial(network, seed))
    return network
