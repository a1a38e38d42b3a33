"""A network that holds every operation of every cell and applies one of each: a path.

It is built, trained and used like the network of a genotype (`c2fnas.network.Network`). A variable
selects the current path, so one traced function serves all paths, and weights of other paths are
not used. There are no batch statistics to recompute for each path, because its norms are instance
norms.
Source: single-path one-shot supernet of Guo et al. 2019 (arXiv 1904.00420).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from c2fnas import network, variable_values
from c2fnas.adam import Alternatives
from c2fnas.cells import MakeOperation
from c2fnas.genotype import Genotype
from c2fnas.named_weights import NamedLayers
from c2fnas.network import Body, Network
from c2fnas.operations import OperationBlock
from c2fnas.search import path_weights
from c2fnas.search.gene_space import Gene
from c2fnas.search.operation_space import OperationSpace
from c2fnas.vae_branch import VaeBranch


class ChosenOperation:
    """The blocks of all operations at one place in the network, of which one is applied.

    Called on float [b, x, y, z, c], it returns the same shape. While `choice` is None, it applies
    all blocks, to build their layers, and returns the result of the first.

    Attributes:
      choice: returns the number of the operation, int32 [].
    """

    def __init__(self, layers: NamedLayers, name: str, operations: Sequence[str], filters: int):
        self.blocks = [
            OperationBlock(layers, path_weights.operation_name(name, op), op, filters)
            for op in operations
        ]
        self.choice: Callable[[], tf.Tensor] | None = None

    def __call__(self, voxels: tf.Tensor) -> tf.Tensor:
        if self.choice is None:
            built, *_ = [block(voxels) for block in self.blocks]
            return built
        return tf.switch_case(
            self.choice(), [functools.partial(block, voxels) for block in self.blocks]
        )


class Supernet(Network):
    """All paths of a space of operations. Make one with `build`.

    Attributes:
      space: the paths.
      genotype: `space.base`; its operations have no meaning here.
      segmenter: a function like a Network's model of that name, along the current path.
      variables: canonical name -> trainable variable of all paths, see `path_weights`.
      trainer: None, unlike a Network's; `train_outputs` takes its place.
    """

    def __init__(
        self,
        space: OperationSpace,
        *,
        patch_size: tuple[int, int, int],
        vae: str | None,
        latent_size: int,
        class_prior: tuple[float, ...] | None,
        precision: str,
        instance_norm: str,
    ):
        self.space = space
        super().__init__(
            space.base,
            patch_size=patch_size,
            vae=vae,
            latent_size=latent_size,
            class_prior=class_prior,
            precision=precision,
            instance_norm=instance_norm,
        )

    def _build(self, layers: NamedLayers) -> None:
        cells = len(self.genotype.cells)
        # int64, because TensorFlow does not keep int32 variables on a GPU
        self._path = tf.Variable([0] * cells, trainable=False, dtype=tf.int64, name="path")
        places: list[tuple[int, ChosenOperation]] = []

        def operation_of(number: int) -> MakeOperation:
            def make(layers: NamedLayers, name: str, op: str, filters: int) -> ChosenOperation:
                del op  # the base's own
                places.append(
                    (number, ChosenOperation(layers, name, self.space.operations, filters))
                )
                return places[-1][1]

            return make

        self._body = Body(layers, self.genotype, operation_of)
        self._branch = (
            VaeBranch(
                layers,
                self.genotype,
                self.patch_size,
                kind=self.vae,
                latent_size=self.latent_size,
            )
            if self.vae is not None
            else None
        )
        patch = tf.keras.Input((*self.patch_size, 1), dtype="float32", name="patch")
        _, encoder_end = self._body(patch)
        if self._branch is not None:
            noise = tf.keras.Input((self.latent_size,), dtype="float32", name="noise")
            self._branch(encoder_end, noise)
        for number, operation in places:
            operation.choice = functools.partial(self._choice, number - 1)
        self.segmenter, self.trainer = self._segment, None
        self.variables, self.owners = layers.variables(), layers.owners()
        self.alternatives = self._make_alternatives()

    def _make_alternatives(self) -> tuple[Alternatives, ...]:
        groups: dict[tuple[int, str], set[str]] = {}
        for name in self.variables:
            place = path_weights.operation_of(name)
            if place is not None:
                groups.setdefault(place, set()).add(name)
        return tuple(
            Alternatives(
                tuple(frozenset(groups[number, op]) for op in self.space.operations),
                functools.partial(self._choice, number - 1),
                tf.Variable(
                    [0] * len(self.space.operations),
                    trainable=False,
                    dtype=tf.int64,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                    name=f"cell{number:02d}_counts",
                ),
            )
            for number in range(1, len(self.genotype.cells) + 1)
        )

    def _choice(self, cell: int) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(self._path)[cell], tf.int32)

    def _segment(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        del training  # no layer behaves differently
        return self._body(image)[0]

    @property
    def path(self) -> Gene:
        """The current path."""
        return tuple(int(choice) for choice in self._path.numpy())

    def choose(self, gene: Gene) -> None:
        """Makes a path the current one, without retracing any function.

        Raises:
          ValueError: for a gene outside the space.
        """
        self._path.assign(np.asarray(self.space.checked(gene), dtype=np.int64))

    def counts(self) -> np.ndarray:
        """Returns for how many steps each operation was trained, int64 [cells, operations]."""
        return np.stack([alternative.counts.numpy() for alternative in self.alternatives])

    def set_counts(self, counts: np.ndarray) -> None:
        """Sets what `counts` returned.

        Raises:
          ValueError: for another shape.
        """
        expected = (len(self.alternatives), len(self.space.operations))
        if np.shape(counts) != expected:
            raise ValueError(
                f"the counts of steps have shape {np.shape(counts)}, expected {expected}: they "
                "come from a supernet with other cells or operations"
            )
        for alternative, row in zip(self.alternatives, counts, strict=True):
            alternative.counts.assign(np.asarray(row, dtype=np.int64))

    def train_outputs(
        self, image: tf.Tensor | np.ndarray, noise: tf.Tensor | np.ndarray | None = None
    ) -> dict[str, tf.Tensor]:
        """As `Network.train_outputs`, along the current path."""
        image = tf.convert_to_tensor(image, tf.float32)
        logits, encoder_end = self._body(image)
        outputs = {"logits": logits}
        if self._branch is not None:
            if noise is None:
                noise = tf.zeros((tf.shape(image)[0], self.latent_size), tf.float32)
            noise = tf.convert_to_tensor(noise, tf.float32)
            outputs["reconstruction"], outputs["mean"], outputs["std"] = self._branch(
                encoder_end, noise
            )
        return outputs


def build(space: OperationSpace, **settings: Any) -> Supernet:
    """Returns the supernet of a space with its initial values. Call it in `strategy.scope()`.

    Settings and errors are those of `c2fnas.network.build`.
    """

    def make(genotype: Genotype, **settings: Any) -> Supernet:
        del genotype  # the base of the space
        return Supernet(space, **settings)

    built = network.build(space.base, **settings, make=make)
    assert isinstance(built, Supernet)
    return built


def path_arrays(supernet: Supernet, gene: Gene) -> Mapping[str, np.ndarray]:
    """Returns copies of one path's weights under the names of an ordinary network."""
    chosen = path_weights.extract(supernet.space, gene, supernet.variables)
    return dict(zip(chosen, variable_values.read(chosen.values()), strict=True))
