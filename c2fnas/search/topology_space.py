"""The coarse stage: the topologies of a network whose cells all apply the same operation.

A topology is a walk over the levels that starts where the stem ends, on level 1. Each cell on the
way down keeps the level or goes one deeper; each cell on the way up keeps it or goes one higher;
the last cell is back on level 1. With d of 6 cells going down and d of 6 going up, the number of
topologies is the sum over d of C(6, d)**2 = C(12, 6) = 924. C2FNAS (Yu et al. 2020, arXiv
1912.09628) states the U-shape, six cells each way and this number. That its rules are exactly these
is our interpretation: the number agrees, and the published topology obeys them.

The inputs of a cell follow from the walk, by rules of this project. A cell reads the cell before
it. A cell that goes up also reads the last cell on the way down on its own level. A cell that keeps
its level also reads the cell two before it, if that cell is on the same level. With these rules,
the levels of the published topology result in its published connections.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from c2fnas.genotype import OPERATIONS, CellGene, Genotype
from c2fnas.search.gene_space import Gene, GeneSpace

DEFAULT_OPERATION = "conv3d"  # default of the coarse stage


@dataclasses.dataclass(frozen=True)
class TopologySpace(GeneSpace):
    """Topologies with `down` cells on the way down and `up` on the way up.

    A gene has one place per cell: 1 if the cell changes the level, 0 if it keeps it.

    Attributes:
      down, up: numbers of cells.
      deepest: the deepest level allowed. A patch must be a multiple of 2**deepest voxels.
      filters: number of filters of the genotypes, at full resolution.
      op: operation of every cell.
    Raises:
      ValueError: for a number out of range or an unknown operation.
    """

    down: int = 6
    up: int = 6
    deepest: int = 7
    filters: int = 32
    op: str = DEFAULT_OPERATION

    def __post_init__(self) -> None:
        if self.down < 1 or self.up < 1 or self.deepest < 1:
            raise ValueError(
                f"down is {self.down}, up {self.up}, deepest {self.deepest}; "
                "expected at least 1 for each"
            )
        if self.op not in OPERATIONS:
            raise ValueError(f"op is {self.op!r}; expected one of {', '.join(OPERATIONS)}")

    @property
    def choices(self) -> tuple[int, ...]:
        return (2,) * (self.down + self.up)

    @property
    def size(self) -> int:
        most = min(self.down, self.up, self.deepest - 1)
        return sum(math.comb(self.down, d) * math.comb(self.up, d) for d in range(most + 1))

    def is_valid(self, gene: Gene) -> bool:
        deeper, higher = sum(gene[: self.down]), sum(gene[self.down :])
        return deeper == higher and deeper < self.deepest

    def genes(self) -> Iterator[Gene]:
        """Yields every gene of the space, in lexical order."""
        for gene in itertools.product((0, 1), repeat=self.down + self.up):
            if self.is_valid(gene):
                yield gene

    def levels(self, gene: Sequence[int]) -> tuple[int, ...]:
        """Returns the level of each cell.

        Raises:
          ValueError: as `checked`.
        """
        level, found = 1, []
        for number, step in enumerate(self.checked(gene)):
            level += step if number < self.down else -step
            found.append(level)
        return tuple(found)

    def describe(self, gene: Gene) -> str:
        return f"levels {''.join(map(str, self.levels(gene)))}"

    def gene_of(self, levels: Sequence[int]) -> Gene:
        """Returns the gene whose cells lie on these levels.

        Raises:
          ValueError: if a cell is more than one level from the one before it, or the gene is not
            valid.
        """
        before = (1, *levels[:-1])
        signs = [1] * self.down + [-1] * self.up
        if len(levels) != len(signs):
            raise ValueError(f"levels {list(levels)} are not those of {len(signs)} cells")
        return self.checked(
            [
                sign * (level - earlier)
                for sign, level, earlier in zip(signs, levels, before, strict=True)
            ]
        )

    def genotype(self, gene: Gene) -> Genotype:
        levels = (1, *self.levels(gene))  # level of the stem, and of each cell by its number
        last_on = {level: number for number, level in enumerate(levels[: self.down + 1])}
        cells = []
        for number in range(1, len(levels)):
            level, inputs = levels[number], [number - 1]
            if level < levels[number - 1]:
                inputs.append(last_on[level])
            elif level == levels[number - 1] and number >= 2 and levels[number - 2] == level:
                inputs.append(number - 2)
            cells.append(CellGene(tuple(inputs), level, self.op))
        digits = ("" if max(levels) < 10 else "_").join(map(str, levels[1:]))
        return Genotype(f"levels_{digits}", tuple(cells), filters=self.filters)
