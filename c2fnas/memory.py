"""Estimates from the built model how much memory a training step needs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from c2fnas.network import Network

_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """The memory of one training step on one device, in bytes.

    Attributes:
      weights: weights, gradients and Adam's two moments, whatever the batch.
      activations: the values that the forward pass keeps for the backward pass, for the device's
        whole batch.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def training_step(network: Network, batch: int) -> MemoryEstimate:
    """Returns an estimate for `batch` patches on one device in float32.

    Every layer's output counts once, because the backward pass of convolution, norm and ReLU needs
    it, and the largest output counts twice more, for the workspace of its backward pass. Allow a
    quarter more for the allocator and for the workspaces of convolutions.
    """
    sizes = [
        _output_size(node) for nodes in network.trainer._nodes_by_depth.values() for node in nodes
    ]
    weights = sum(int(np.prod(variable.shape)) for variable in network.variables.values())
    return MemoryEstimate(
        weights=4 * weights * _FLOAT_BYTES,
        activations=(sum(sizes) + 2 * max(sizes)) * batch * _FLOAT_BYTES,
    )


def _output_size(node: Any) -> int:  # a Keras node, a private class without types
    """Returns the number of values in the outputs of one call of a layer for one patch.

    A layer's own `output` would be that of its first call, on volumes of unknown size.
    """
    return sum(int(np.prod(output.shape[1:])) for output in tf.nest.flatten(node.outputs))
