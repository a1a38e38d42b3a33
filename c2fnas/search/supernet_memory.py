"""Estimates how much memory a supernet's training step needs."""

from __future__ import annotations

import dataclasses
import math

from c2fnas import gpu_memory, network
from c2fnas.genotype import OPERATIONS
from c2fnas.gpu_memory import MemoryEstimate
from c2fnas.search.supernet import Supernet

_FLOAT_BYTES = 4


def training_step(supernet: Supernet, batch: int) -> MemoryEstimate:
    """Returns an estimate for `batch` patches on one device in float32.

    Weights, gradients and moments are those of all paths; gradients of other paths are zeros, but
    still take memory. Activations are those of one path, estimated as in
    `gpu_memory.training_step` for the path that keeps the most: the one whose operations have the
    most consecutive convolutions.
    """
    space = dataclasses.replace(supernet.space, most_macs=None)
    lengths = [len(OPERATIONS[op]) for op in space.operations]
    gene = (lengths.index(max(lengths)),) * len(space.base.cells)
    path = network.build(
        space.genotype(gene),
        patch_size=supernet.patch_size,
        vae=supernet.vae,
        latent_size=supernet.latent_size,
    )
    weights = sum(math.prod(variable.shape) for variable in supernet.variables.values())
    return MemoryEstimate(
        weights=4 * int(weights) * _FLOAT_BYTES,
        activations=gpu_memory.training_step(path, batch).activations,
    )
