"""The layers of one cell of the searched network, built from its gene."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from c2fnas import genotype
from c2fnas.named_weights import NamedLayers
from c2fnas.operations import ConvNorm, OperationBlock, Step, UpBlock

# layers, canonical name of the operation, its kind, number of filters -> the cell's step
MakeOperation = Callable[[NamedLayers, str, str, int], Step]


class Cell:
    """A cell, called on the outputs of the cells that it reads.

    The inputs, each float [b, x, y, z, c], are in the order of the gene. The output is float
    [b, x, y, z, filters] on the level of the gene.

    Args:
      layers: registry in which the cell's layers get their canonical names.
      architecture: the whole genotype, for the levels and filters of the cells that it reads.
      number: number of the cell, from 1.
      make_operation: makes the cell's operation, one for each input or one for their sum.
    """

    def __init__(
        self,
        layers: NamedLayers,
        architecture: genotype.Genotype,
        number: int,
        *,
        make_operation: MakeOperation = OperationBlock,
    ):
        gene = architecture.cells[number - 1]
        prefix, width = f"cell{number:02d}", architecture.filters_at(gene.level)
        self.branches: list[list[Step]] = []
        for index, source in enumerate(gene.inputs):
            source_level, name = architecture.level_of(source), f"{prefix}/input{index}"
            branch: list[Step] = []
            if source_level < gene.level:
                branch.append(
                    ConvNorm(layers, f"{name}/down", width, (3, 3, 3), stride=2, relu_first=True)
                )
            if source_level > gene.level:
                branch.append(UpBlock(layers, f"{name}/up", width))
            elif source_level == gene.level or gene.down == "before_first":
                branch.append(_outer(layers, gene, f"{name}/first", width))
            if gene.merge == "after_op":
                branch.append(make_operation(layers, f"{name}/op", gene.op, width))
            self.branches.append(branch)
        self.add = tf.keras.layers.Add(name=f"{prefix}_sum") if len(gene.inputs) > 1 else None
        self.after: list[Step] = []
        if gene.merge == "before_op":
            self.after.append(make_operation(layers, f"{prefix}/op", gene.op, width))
        self.after.append(_outer(layers, gene, f"{prefix}/last", width))

    def __call__(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        results = []
        for branch, voxels in zip(self.branches, inputs, strict=True):
            for step in branch:
                voxels = step(voxels)
            results.append(voxels)
        merged = self.add(results) if self.add else results[0]
        for step in self.after:
            merged = step(merged)
        return merged


def _outer(layers: NamedLayers, gene: genotype.CellGene, name: str, width: int) -> Step:
    """Returns the first or last 1x1x1 of a cell."""
    block = gene.outer == "block"
    return ConvNorm(layers, name, width, (1, 1, 1), norm=block, relu_first=block)
