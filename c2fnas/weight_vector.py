"""The trained weights of a network as one vector, for the steps of a GPU.

Starting an operation takes longer on a GPU than computing with a single weight. So a step reads the
weights into one vector and gives parts of it to the layers. Casting them to half precision,
repeating the norms' weights for each sample and adding up their gradients, dividing by the loss
scale, the norm of all gradients and Adam's update are then one operation each instead of one for
each weight. Every number is computed as before. The network's own variables stay where weights are
read and set.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from c2fnas import gpus, keras_stack
from c2fnas.named_weights import VAE_PREFIX

if TYPE_CHECKING:
    from c2fnas.network import Network


class WeightVector:
    """Weights of a network, one after another.

    The weights of norms come first, then the others of float32 layers, then those that are cast to
    half precision.

    Args:
      network: the network that has the weights.
      names: canonical names of the weights, in any order.
      share: factor of the learning rate.
    Attributes:
      names: the canonical names in the order of the vector.
      variables: the network's own variables in that order.
      share: as given.
    """

    def __init__(self, network: Network, names: Sequence[str], *, share: float = 1.0):
        kinds: dict[str, list[str]] = {"norm": [], "whole": [], "half": []}
        for name in names:
            kinds[self._kind(*network.owners[name])].append(name)
        self._kinds = {kind: own for kind, own in kinds.items() if own}
        self.names = [name for own in self._kinds.values() for name in own]
        self.variables = [network.variables[name] for name in self.names]
        self.share = share
        self._owners = [network.owners[name] for name in self.names]
        self._shapes = [tuple(int(n) for n in variable.shape) for variable in self.variables]
        self.sizes = [math.prod(shape) for shape in self._shapes]

    @staticmethod
    def _kind(layer: tf.keras.layers.Layer, attribute: str) -> str:
        if isinstance(layer, keras_stack.InstanceNormalization):
            return "norm"
        return "whole" if layer.compute_dtype == "float32" else "half"

    def read(self) -> tf.Tensor:
        """Returns the present weights, float32 [sum of sizes]."""
        return self.joined(
            [tf.convert_to_tensor(keras_stack.tf_variable(v)) for v in self.variables]
        )

    def joined(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns tensors in the order and shapes of the weights as one vector."""
        return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)

    def split(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Undoes `joined`: returns a tensor for each weight, in its shape."""
        parts = tf.split(vector, self.sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]

    @contextlib.contextmanager
    def in_use(self, vector: tf.Tensor, samples: int) -> Iterator[None]:
        """Makes the layers compute with parts of `vector`, while a graph is traced.

        Args:
          vector: the weights, as `read` returns them.
          samples: number of samples that the layers are called on.
        """
        with contextlib.ExitStack() as stack:
            parts = self._parts(vector, samples)
            for (layer, attribute), part in zip(self._owners, parts, strict=True):
                stack.enter_context(keras_stack.replaced(layer, attribute, part))
            yield

    def _parts(self, vector: tf.Tensor, samples: int) -> list[tf.Tensor]:
        """Returns the weights as the layers take them; a norm's as [samples, channels]."""
        sizes, shapes = iter(self.sizes), iter(self._shapes)
        of_kinds = {kind: list(itertools.islice(sizes, len(n))) for kind, n in self._kinds.items()}
        wholes = tf.split(vector, [sum(own) for own in of_kinds.values()])
        found = []
        for (kind, own), whole in zip(of_kinds.items(), wholes, strict=True):
            if kind == "norm" and samples > 1:
                repeated = tf.tile(whole[tf.newaxis], [samples, 1])
                found += tf.split(repeated, own, axis=1)
                for _ in own:
                    next(shapes)
                continue
            if kind == "half":
                whole = tf.cast(whole, self._owners[len(found)][0].compute_dtype)
            found += [tf.reshape(part, next(shapes)) for part in tf.split(whole, own)]
        return found


def vectors(
    network: Network, *, frozen: tuple[str, ...] = (), vae_rate: float = 1.0
) -> tuple[WeightVector, ...]:
    """Returns the trained weights as vectors, one for each learning rate; none without a GPU.

    A supernet has none, because a step changes a part of its weights.

    Args:
      network: built inside `strategy.scope()`.
      frozen, vae_rate: as in `TrainStep`.
    """
    if not gpus.is_used() or network.alternatives:
        return ()
    by_share: dict[float, list[str]] = {}
    for name in network.variables:
        if not name.startswith(frozen):
            share = vae_rate if name.startswith(VAE_PREFIX) else 1.0
            by_share.setdefault(share, []).append(name)
    return tuple(WeightVector(network, own, share=share) for share, own in by_share.items())
