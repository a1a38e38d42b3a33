"""The fine stage: the operation of each cell of one topology."""

from __future__ import annotations

import dataclasses
import math

from c2fnas.genotype import OPERATIONS, Genotype
from c2fnas.search.gene_space import Gene, GeneSpace

SEARCHED = ("conv2d", "conv3d", "p3d")  # as in C2FNAS: 3**12 = 531,441 paths of 12 cells

_SHORT = {"conv2d": "2", "conv3d": "3", "p3d": "p"}  # in a genotype's name


@dataclasses.dataclass(frozen=True)
class OperationSpace(GeneSpace):
    """All choices of one operation for each cell of a genotype: the paths of its supernet.

    A gene has one entry per cell: the index of the cell's operation in `operations`.

    Attributes:
      base: the genotype whose topology, width and kind of cell every path has.
      operations: the operations that a cell can apply, from `genotype.OPERATIONS`.
      patch_size: x, y, z in voxels, for `most_macs`.
      most_macs: the most multiply-accumulates that a path may need for one patch; None for any.
    Raises:
      ValueError: for operations that do not exist or that are given twice, or a limit that even the
        cheapest path exceeds.
    """

    base: Genotype
    operations: tuple[str, ...] = SEARCHED
    patch_size: tuple[int, int, int] | None = None
    most_macs: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        unknown = [op for op in self.operations if op not in OPERATIONS]
        if unknown or not self.operations or len(set(self.operations)) < len(self.operations):
            raise ValueError(
                f"operations are {', '.join(self.operations) or 'none'}; "
                f"expected one or more of {', '.join(OPERATIONS)}, each once"
            )
        if self.most_macs is not None:
            least = min(self._macs(self._all_of(choice)) for choice in range(len(self.operations)))
            if least > self.most_macs:
                raise ValueError(
                    f"most_macs is {self.most_macs:.4g}; "
                    f"the cheapest path of {self.base.name!r} needs {least:.4g}"
                )

    def __str__(self) -> str:
        limit = "" if self.most_macs is None else f", at most {self.most_macs:.4g} MAC"
        return f"{'/'.join(self.operations)} for each cell of {self.base.name!r}{limit}"

    @property
    def choices(self) -> tuple[int, ...]:
        return (len(self.operations),) * len(self.base.cells)

    @property
    def size(self) -> int:
        return math.prod(self.choices)

    def is_valid(self, gene: Gene) -> bool:
        return self.most_macs is None or self._macs(gene) <= self.most_macs

    def genotype(self, gene: Gene) -> Genotype:
        return self._genotype(self.checked(gene))

    def describe(self, gene: Gene) -> str:
        return " ".join(self.operations[choice] for choice in gene)

    def gene_of(self, genotype: Genotype) -> Gene:
        """Returns the path of a genotype that differs from `base` only in operations.

        Raises:
          ValueError: if it differs in anything else, or an operation is not searched.
        """
        unknown = sorted({cell.op for cell in genotype.cells} - set(self.operations))
        if unknown:
            raise ValueError(
                f"genotype {genotype.name!r} applies {', '.join(unknown)}; "
                f"the supernet has {', '.join(self.operations)}"
            )
        gene = tuple(self.operations.index(cell.op) for cell in genotype.cells)
        if len(gene) != len(self.base.cells) or self._genotype(gene) != dataclasses.replace(
            genotype, name=self._genotype(gene).name
        ):
            raise ValueError(
                f"genotype {genotype.name!r} is not a path of the supernet of {self.base.name!r}: "
                "they differ in more than operations"
            )
        return self.checked(gene)

    def _genotype(self, gene: Gene) -> Genotype:
        chosen = [self.operations[choice] for choice in gene]
        cells = tuple(
            dataclasses.replace(cell, op=op)
            for cell, op in zip(self.base.cells, chosen, strict=True)
        )
        name = f"{self.base.name}_ops_{''.join(_SHORT.get(op, op) for op in chosen)}"
        return dataclasses.replace(self.base, name=name, cells=cells)

    def _macs(self, gene: Gene) -> int:
        if self.patch_size is None:
            raise ValueError("most_macs is set without patch_size; give both")
        return self._genotype(gene).macs(self.patch_size)

    def _all_of(self, choice: int) -> Gene:
        return (choice,) * len(self.base.cells)
