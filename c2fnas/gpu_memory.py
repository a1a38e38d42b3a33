"""Estimates from the built model how much memory of a GPU a step or a window needs, and what fits.

Nothing is fitted to measurements; tests/c2fnas/test_gpu_memory.py compares the estimates with those
that docs/gpu.md reports. What is counted:

* A backward pass needs the input of every convolution and every norm and the output of every ReLU,
  each once and in the type in which the layer computes. A norm's output is not among them: the ReLU
  takes its place.
* cuDNN computes float32 with channels first, and the volumes have them last. So a norm, or a
  convolution of more than one voxel, holds its input and its output twice while it runs. In half
  precision it takes volumes as they are.
* The workspaces of cuDNN and the gaps of the allocator are left to `WORKSPACES`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from c2fnas import keras_stack
from c2fnas.keras_stack import LibraryInstanceNormalization
from c2fnas.operations import UpsampledConv3D

if TYPE_CHECKING:
    from c2fnas.network import Network

_FLOAT_BYTES = 4
_CONVOLUTIONS = (tf.keras.layers.Conv3D, tf.keras.layers.Dense)
WORKSPACES = 1.25  # what to allow for the allocator and for the workspaces of convolutions


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """The memory of one training step on one device at its peak, in bytes.

    Attributes:
      weights: weights, Adam's two moments, and the two copies of the weights that a step makes,
        whatever the batch.
      activations: what the device's whole batch needs: the values that the forward pass keeps for
        the backward pass, those of the loss, and the largest layer's while its gradient is
        computed.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def training_step(network: Network, batch: int) -> MemoryEstimate:
    """Returns an estimate for `batch` patches on one GPU, at the network's precision.

    Memory is highest when the backward pass begins with the layers of the full resolution: all
    values are still kept.
    """
    kept: dict[tuple[int, str], int] = {}
    largest = 0
    for node in _nodes(network):
        layer, (first, *_) = _layer_of(node), _inputs_of(node) or [None]
        computes = _precision_of(layer)
        if isinstance(layer, UpsampledConv3D):
            kept[id(layer), computes] = _joined_values(first) * tf.as_dtype(computes).size
        elif isinstance(layer, _CONVOLUTIONS):
            kept[id(first), computes] = _values(first) * tf.as_dtype(computes).size
        if isinstance(layer, LibraryInstanceNormalization):
            kept[id(first), tf.as_dtype(first.dtype).name] = _bytes(first)
            # The gradient of the output and of the input.
            largest = max(largest, 2 * _copies(layer) * _bytes(first))
        if isinstance(layer, tf.keras.layers.ReLU):
            (output,) = tf.nest.flatten(node.outputs)
            kept[id(output), tf.as_dtype(output.dtype).name] = _bytes(output)
    # Probabilities, labels as such, and the gradient's slope and result, each float32.
    loss = 4 * network.genotype.classes * int(np.prod(network.patch_size)) * _FLOAT_BYTES
    return MemoryEstimate(
        weights=5 * _weights(network) * _FLOAT_BYTES,
        activations=(sum(kept.values()) + loss + largest) * batch,
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
    large for a network that was built for a small patch, because padding counts more there. With
    several windows at a time it is an upper bound: the norm of all samples moves its values itself
    and holds fewer of them.
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
        moved = sum(_bytes(tensor) for tensor in _inputs_of(node)) + size_of_node
        most = max(most, living + (_copies(_layer_of(node)) - 1) * moved)
        last = max(last_use.get(id(tensor), number) for tensor in tf.nest.flatten(node.outputs))
        freed[last] = freed.get(last, 0) + size_of_node
        living -= freed.pop(number, 0)
    share = float(np.prod(size)) / float(np.prod(network.patch_size))
    return int(most * share * batch) + _weights(network) * _FLOAT_BYTES


def fitting_window(
    network: Network, size: Sequence[int], available: float
) -> tuple[int, int, int] | None:
    """Returns the largest window below `size`, of similar proportions, that fits, or None."""
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


def _weights(network: Network) -> int:
    return sum(int(np.prod(variable.shape)) for variable in network.variables.values())


def _layer_of(node: Any) -> Any:  # a Keras node, a private class without types
    return node.operation if keras_stack.IS_KERAS_3 else node.layer


def _precision_of(layer: Any) -> str:
    return str(getattr(layer, "compute_dtype", "float32"))


def _copies(layer: Any) -> int:
    """Returns how many times a layer holds its input and output while it runs; see above."""
    moves = isinstance(layer, LibraryInstanceNormalization) or (
        isinstance(layer, tf.keras.layers.Conv3D) and max(layer.kernel_size) > 1
    )
    return 2 if moves and _precision_of(layer) == "float32" else 1


def _inputs_of(node: Any) -> list[Any]:
    found = getattr(node, "input_tensors", None)
    return tf.nest.flatten(node.keras_inputs if found is None else found)


def _output_bytes(node: Any) -> int:
    """Returns the bytes in the outputs of one call of a layer for one patch.

    A layer's own `output` would be that of its first call, on volumes of unknown size.
    """
    return sum(_bytes(output) for output in tf.nest.flatten(node.outputs))


def _bytes(tensor: Any) -> int:
    """Returns the bytes of one sample of a Keras tensor."""
    return _values(tensor) * tf.as_dtype(tensor.dtype).size


def _joined_values(tensor: Any) -> int:
    """Returns how many values `doubling.double_and_convolve` keeps of its input.

    They are the volume with a layer around it, and for each axis two faces of the doubled volume
    between two layers of zeros.
    """
    x, y, z, channels = tensor.shape[1:]
    doubled = [2 * n + 2 for n in (x, y, z)]
    faces = 4 * sum(first * second for first, second in itertools.combinations(doubled, 2))
    return int(((x + 2) * (y + 2) * (z + 2) + faces) * channels)


def _values(tensor: Any) -> int:
    return int(np.prod(tensor.shape[1:]))
