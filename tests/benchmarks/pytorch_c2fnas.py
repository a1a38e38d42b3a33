"""C2FNAS in PyTorch, built from the same table of cells, to compare speed and logits.

Needs no TensorFlow.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from c2fnas import genotype


class Block(nn.Module):
    """ReLU (unless `relu` is false), one or more convolutions without bias, instance norm."""

    def __init__(self, channels_in, channels_out, kernels, *, stride=1, relu=True):
        super().__init__()
        self.relu = relu
        self.convolutions = nn.ModuleList()
        for kernel in kernels:
            padding = tuple(n // 2 for n in kernel)
            self.convolutions.append(
                nn.Conv3d(
                    channels_in, channels_out, kernel, stride=stride, padding=padding, bias=False
                )
            )
            channels_in = channels_out
        self.norm = nn.InstanceNorm3d(channels_out, eps=1e-5, affine=True)

    def forward(self, voxels):
        if self.relu:
            voxels = F.relu(voxels)
        for convolution in self.convolutions:
            voxels = convolution(voxels)
        return self.norm(voxels)


def double(voxels):
    return F.interpolate(voxels, scale_factor=2, mode="trilinear", align_corners=False)


class Cell(nn.Module):
    def __init__(self, table, number):
        super().__init__()
        gene = table.cells[number - 1]
        width = table.filters_at(gene.level)
        self.up, self.first, self.op = [], nn.ModuleList(), nn.ModuleList()
        for source in gene.inputs:
            level = table.level_of(source)
            self.up.append(level > gene.level)
            if level < gene.level:
                self.first.append(Block(table.filters_at(level), width, [(3, 3, 3)], stride=2))
            else:
                self.first.append(Block(table.filters_at(level), width, [(1, 1, 1)]))
            self.op.append(Block(width, width, genotype.OPERATIONS[gene.op].values()))
        self.last = Block(width, width, [(1, 1, 1)])

    def forward(self, inputs):
        merged = 0
        for up, first, op, voxels in zip(self.up, self.first, self.op, inputs, strict=True):
            merged = merged + op(first(double(voxels) if up else voxels))
        return self.last(merged)


class C2FNAS(nn.Module):
    """image [b, 1, x, y, z] to logits [b, 3, x, y, z]."""

    def __init__(self, filters: int):
        super().__init__()
        self.table = table = genotype.load("c2fnas").with_size(filters=filters)
        full, half = table.filters_at(0), table.filters_at(1)
        cube = [(3, 3, 3)]
        self.stem_first = Block(1, full, cube, relu=False)
        self.stem_second = Block(full, half, cube, stride=2)
        self.cells = nn.ModuleList(Cell(table, number) for number in range(1, len(table.cells) + 1))
        self.end_first = Block(2 * half, half, cube)
        self.end_second = Block(half, full, cube, relu=False)
        self.classifier = nn.Conv3d(full, table.classes, 1)

    def forward(self, image):
        outputs = [self.stem_second(self.stem_first(image))]
        for cell, gene in zip(self.cells, self.table.cells, strict=True):
            outputs.append(cell([outputs[source] for source in gene.inputs]))
        voxels = self.end_first(torch.cat([outputs[-1], outputs[-2]], 1))
        return self.classifier(F.relu(self.end_second(double(voxels))))

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Sets every weight from arrays under canonical names.

        Raises:
          KeyError: if a weight is missing or left over.
        """
        left = dict(arrays)

        def fill(block, name):
            if len(block.convolutions) == 2:
                names = [f"{name}/in_plane", f"{name}/through_plane"]
            else:
                names = [name]
            for convolution, conv_name in zip(block.convolutions, names, strict=True):
                copy(
                    convolution.weight,
                    np.transpose(left.pop(f"{conv_name}/kernel"), (4, 3, 0, 1, 2)),
                )
            copy(block.norm.weight, left.pop(f"{names[-1]}/gamma"))
            copy(block.norm.bias, left.pop(f"{names[-1]}/beta"))

        def copy(parameter, array):
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))

        fill(self.stem_first, "stem/first")
        fill(self.stem_second, "stem/second")
        for number, (cell, gene) in enumerate(
            zip(self.cells, self.table.cells, strict=True), start=1
        ):
            for index, source in enumerate(gene.inputs):
                level = self.table.level_of(source)
                first = "down" if level < gene.level else "up" if level > gene.level else "first"
                fill(cell.first[index], f"cell{number:02d}/input{index}/{first}")
                fill(cell.op[index], f"cell{number:02d}/input{index}/op")
            fill(cell.last, f"cell{number:02d}/last")
        fill(self.end_first, "end/first")
        fill(self.end_second, "end/second")
        copy(
            self.classifier.weight, np.transpose(left.pop("end/classifier/kernel"), (4, 3, 0, 1, 2))
        )
        copy(self.classifier.bias, left.pop("end/classifier/bias"))
        if left:
            raise KeyError(f"weights without a place: {sorted(left)}")
