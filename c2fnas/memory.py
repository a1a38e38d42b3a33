"""Estimates from the built model how much memory a step or a window needs, and what would fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from c2fnas.network import Network

_FLOAT_BYTES = 4
WORKSPACES = 1.25  # what to allow for the allocator and for the workspaces of convolutions


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
    """Returns an estimate for `batch` patches on one device, at the network's precision.

    Every layer's output counts once, because the backward pass of convolution, norm and ReLU needs
    it, and the largest output counts twice more, for the workspace of its backward pass. Allow a
    quarter more for the allocator and for the workspaces of convolutions.
    """
    sizes = [_output_bytes(node) for node in _nodes(network)]
    weights = sum(int(np.prod(variable.shape)) for variable in network.variables.values())
    return MemoryEstimate(
        weights=4 * weights * _FLOAT_BYTES,
        activations=(sum(sizes) + 2 * max(sizes)) * batch,
    )


def fitting_batch(network: Network, batch: int, available: float) -> int:
    """Returns the largest batch below `batch` that fits one device by the estimate; 0 if none.

    Args:
      network: the network to train.
      batch: patches on one device, which did not fit.
      available: bytes; the estimate with `WORKSPACES` must not exceed them.
    """
    one = training_step(network, 1)
    fitting = (available / WORKSPACES - one.weights) / one.activations
    return max(0, min(batch - 1, int(fitting)))


def fitting_patch(network: Network, available: float) -> tuple[int, int, int] | None:
    """Returns the largest patch of similar proportions that fits as a batch of 1, or None.

    Args:
      network: the network to train; its own patch did not fit.
      available: as in `fitting_batch`.
    """
    one = training_step(network, 1)
    return _shrunk(
        network.patch_size,
        network.genotype.size_multiple,
        share=(available / WORKSPACES - one.weights) / one.activations,
    )


def window(network: Network, size: Sequence[int], batch: int = 1) -> int:
    """Returns an estimate in bytes for segmenting `batch` windows at once, including weights.

    A layer's output counts until the last layer that reads it is done. The layers run in the order
    of the model. The sizes are those of the training patch, scaled to the window, and a little too
    large for a network that was built for a small patch, because padding counts more there.
    """
    nodes = [node for node in _nodes(network) if not node.outputs[0].name.startswith("vae")]
    last_use = {
        id(tensor): number for number, node in enumerate(nodes) for tensor in _inputs_of(node)
    }
    living, most = 0, 0
    freed: dict[int, int] = {}
    for number, node in enumerate(nodes):
        size_of_node = _output_bytes(node)
        living += size_of_node
        most = max(most, living)
        last = max(last_use.get(id(tensor), number) for tensor in tf.nest.flatten(node.outputs))
        freed[last] = freed.get(last, 0) + size_of_node
        living -= freed.pop(number, 0)
    share = float(np.prod(size)) / float(np.prod(network.patch_size))
    weights = sum(int(np.prod(variable.shape)) for variable in network.variables.values())
    return int(most * share * batch) + weights * _FLOAT_BYTES


def fitting_window(
    network: Network, size: Sequence[int], available: float
) -> tuple[int, int, int] | None:
    """Returns the largest window below `size`, of similar proportions, that fits; None if none."""
    needed = WORKSPACES * window(network, size)
    return _shrunk(size, network.genotype.size_multiple, share=available / needed)


def _shrunk(size: Sequence[int], multiple: int, share: float) -> tuple[int, int, int] | None:
    """Returns a smaller size of at most `share` of the voxels, in multiples; None if none is."""
    for factor in np.linspace(1.0, 0.0, 101)[1:]:
        x, y, z = (max(1, int(n * factor) // multiple) * multiple for n in size)
        voxels = x * y * z
        if voxels <= share * float(np.prod(size)) and voxels < np.prod(size):
            return x, y, z
    return None


def _nodes(network: Network) -> list[Any]:
    """Returns the calls of layers in the order of the forward pass."""
    by_depth = network.trainer._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _inputs_of(node: Any) -> list[Any]:  # a Keras node, a private class without types
    found = getattr(node, "input_tensors", None)
    return tf.nest.flatten(node.keras_inputs if found is None else found)


def _output_bytes(node: Any) -> int:
    """Returns the bytes in the outputs of one call of a layer for one patch.

    A layer's own `output` would be that of its first call, on volumes of unknown size.
    """
    return sum(
        int(np.prod(output.shape[1:])) * tf.as_dtype(output.dtype).size
        for output in tf.nest.flatten(node.outputs)
    )
