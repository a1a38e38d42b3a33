"""The space of a search: genes, each a row of small numbers that represents a genotype."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from c2fnas.genotype import Genotype
from c2fnas.search.draws import Draws

Gene = tuple[int, ...]  # one choice for each place, numbered from 0

_ATTEMPTS = 10_000


class GeneSpace(abc.ABC):
    """All genes of one kind. A subclass defines them and the genotype that each represents."""

    @property
    @abc.abstractmethod
    def choices(self) -> tuple[int, ...]:
        """The number of choices at each place of a gene."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of valid genes, ignoring limits that would have to be checked for each."""

    @abc.abstractmethod
    def is_valid(self, gene: Gene) -> bool:
        """Returns whether a gene with allowed choices belongs to the space."""

    @abc.abstractmethod
    def genotype(self, gene: Gene) -> Genotype:
        """Returns the genotype of a gene.

        Raises:
          ValueError: as `checked`.
        """

    @abc.abstractmethod
    def describe(self, gene: Gene) -> str:
        """Returns a gene in a few words, for progress bars."""

    def checked(self, gene: Sequence[int]) -> Gene:
        """Returns the gene as a tuple.

        Raises:
          ValueError: if it has another number of places or a choice that does not exist, or is not
            valid; the message contains the gene.
        """
        found = tuple(int(choice) for choice in gene)
        if len(found) != len(self.choices):
            raise ValueError(
                f"gene {list(found)} has {len(found)} places; expected {len(self.choices)}"
            )
        for place, (choice, count) in enumerate(zip(found, self.choices, strict=True)):
            if not 0 <= choice < count:
                raise ValueError(
                    f"gene {list(found)} has choice {choice} at place {place}; "
                    f"expected 0 to {count - 1}"
                )
        if not self.is_valid(found):
            raise ValueError(f"gene {list(found)} is outside the search space {self}")
        return found

    def sample(self, draws: Draws) -> Gene:
        """Returns one valid gene; all are equally likely.

        Raises:
          ValueError: if none of ten thousand random genes is valid, because the space's limits
            exclude almost all.
        """
        for _ in range(_ATTEMPTS):
            gene = tuple(draws.below(count) for count in self.choices)
            if self.is_valid(gene):
                return gene
        raise ValueError(
            f"none of {_ATTEMPTS} random genes lies within the limits of {self}; widen them"
        )
