"""How much memory a training step needs, estimated from the built model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from c2fnas.network import Network

_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training step on one device.

    Attributes:
      weights: the weights, their gradients and Adam's two moments; the same for any batch.
      activations: what the forward pass keeps for the backward pass, for the whole batch of the
          device.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def training_step(network: Network, batch: int) -> MemoryEstimate:
    """Returns an estimate for `batch` patches on one device, float32.

    Every layer's output is counted once, as the backward pass of convolution, norm and ReLU needs
    its input, and the largest twice more for the working space of its own backward pass. What a
    framework's allocator and convolution workspaces add is not in it: allow a quarter more.
    """
    sizes = [
        _output_size(node) for nodes in network.trainer._nodes_by_depth.values() for node in nodes
    ]
    weights = sum(int(np.prod(variable.shape)) for variable in network.variables.values())
    return MemoryEstimate(
        weights=4 * weights * _FLOAT_BYTES,
        activations=(sum(sizes) + 2 * max(sizes)) * batch * _FLOAT_BYTES,
    )


def _output_size(node) -> int:
    """Returns values in the outputs of one call of a layer for one patch.

    Of the call, not of the layer: a layer's own `output` is that of its first call, on volumes of
    any size.
    """
    return sum(int(np.prod(output.shape[1:])) for output in tf.nest.flatten(node.outputs))
