"""Weights and multiply-accumulates of a supernet and of its paths, from the genotype alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from c2fnas.genotype import Convolution
from c2fnas.search.operation_space import OperationSpace


@dataclasses.dataclass(frozen=True)
class SupernetCost:
    """The size of a supernet and the cost of one step along a path.

    Attributes:
      weights: convolution weights of all paths together, without biases, norms and VAE branch.
      path_weights: convolution weights of the smallest and of the largest path.
      macs: multiply-accumulates for one patch of the cheapest path, of all paths on average, and of
        the most expensive path.
    """

    weights: int
    path_weights: tuple[int, int]
    macs: tuple[int, float, int]


def supernet_cost(space: OperationSpace, patch_size: Sequence[int]) -> SupernetCost:
    """Returns the cost of a supernet, ignoring any limit on MACs.

    The cost of a path is that of the shared part plus one operation per cell, so minimum, mean and
    maximum follow from each cell separately.

    Raises:
      ValueError: if the patch does not fit the genotype.
    """
    space.base.check_size(patch_size)
    voxels = patch_size[0] * patch_size[1] * patch_size[2]
    unlimited = dataclasses.replace(space, most_macs=None)
    cells, operations = range(len(space.base.cells)), range(len(space.operations))
    shared_weights = shared_macs = 0
    weights = [[0 for _ in operations] for _ in cells]
    macs = [[0 for _ in operations] for _ in cells]
    for choice in operations:
        for convolution in unlimited.genotype((choice,) * len(cells)).convolutions():
            cost = convolution.weights * (voxels // 8**convolution.level)
            cell = _cell_of_operation(convolution)
            if cell is not None:
                weights[cell][choice] += convolution.weights
                macs[cell][choice] += cost
            elif choice == 0:
                shared_weights += convolution.weights
                shared_macs += cost
    return SupernetCost(
        weights=shared_weights + sum(map(sum, weights)),
        path_weights=(
            shared_weights + sum(map(min, weights)),
            shared_weights + sum(map(max, weights)),
        ),
        macs=(
            shared_macs + sum(map(min, macs)),
            shared_macs + sum(map(sum, macs)) / len(operations),
            shared_macs + sum(map(max, macs)),
        ),
    )


def _cell_of_operation(convolution: Convolution) -> int | None:
    """Returns the index of the cell to whose operation a convolution belongs; None for others."""
    parts = convolution.name.split("/")
    return int(parts[0].removeprefix("cell")) - 1 if "op" in parts[:-1] else None
