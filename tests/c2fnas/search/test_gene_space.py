import collections
import dataclasses

import pytest

from c2fnas import genotype
from c2fnas.search.draws import Draws
from c2fnas.search.gene_space import GeneSpace


@dataclasses.dataclass(frozen=True)
class Even(GeneSpace):
    """Rows of two numbers with an even sum, or none at all."""

    none: bool = False

    @property
    def choices(self):
        return (2, 3)

    @property
    def size(self):
        return 3

    def is_valid(self, gene):
        return not self.none and sum(gene) % 2 == 0

    def genotype(self, gene):
        return genotype.load("c2fnas")

    def describe(self, gene):
        return str(gene)


def test_samples_are_valid_and_equally_likely():
    draws, space = Draws(1, "test"), Even()
    counts = collections.Counter(space.sample(draws) for _ in range(3000))
    assert set(counts) == {(0, 0), (0, 2), (1, 1)}
    assert all(abs(count - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for count in counts.values())


def test_a_space_with_nothing_in_it_is_named():
    with pytest.raises(ValueError, match=r"none of 10000 random genes.*Even\(none=True\); widen"):
        Even(none=True).sample(Draws(1, "test"))


@pytest.mark.parametrize(
    ("gene", "message"),
    [
        ((0,), r"\[0\] has 1 places; expected 2"),
        ((0, 3), r"\[0, 3\] has choice 3 at place 1; expected 0 to 2"),
        ((0, -1), "choice -1"),
        ((0, 1), r"\[0, 1\] is outside"),
    ],
)
def test_genes_outside_the_space_are_refused(gene, message):
    with pytest.raises(ValueError, match=message):
        Even().checked(gene)


def test_a_gene_may_be_any_row_of_numbers():
    assert Even().checked([1, 1]) == (1, 1)
