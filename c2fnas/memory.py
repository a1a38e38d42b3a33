"""How much memory a training step needs, estimated from the built model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from c2fnas.network import Network

_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training step on one device.

    Attributes:
      weights: the weights, their gradients and Adam's two moments; the same for any batch.
      activations: what the forward pass keeps for the backward pass, for the whole batch of the device.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def training_step(network: Network, batch: int) -> MemoryEstimate:
    """Returns an estimate for `batch` patches on one device, float32.

    Every layer's output is counted once, as the backward pass of convolution, norm and ReLU needs its input, and the largest twice
    more for the working space of its own backward pass. What a framework's allocator and convolution workspaces add is not in it:
    allow a quarter more.
    """
    sizes = [_output_size(layer) for layer in network.trainer.layers]
    weights = sum(int(np.prod(variable.shape)) for variable in network.variables.values())
    return MemoryEstimate(
        weights=4 * weights * _FLOAT_BYTES,
        activations=(sum(sizes) + 2 * max(sizes)) * batch * _FLOAT_BYTES,
    )


def _output_size(layer) -> int:
    """Returns values in a layer's outputs for one patch."""
    outputs = layer.output if isinstance(layer.output, (list, tuple)) else [layer.output]
    return sum(int(np.prod([1 if n is None else n for n in output.shape[1:]])) for output in outputs)
