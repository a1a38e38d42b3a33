import dataclasses

import pytest

from c2fnas import genotype
from c2fnas.genotype import CellGene, Genotype
from c2fnas.search.operation_space import OperationSpace

PUBLISHED = genotype.load("c2fnas")
TINY = Genotype(
    "tiny", (CellGene((0,), 1, "conv3d"), CellGene((1, 0), 1, "conv3d")), filters=1, classes=2
)


def test_the_space_of_the_paper_has_3_to_the_12_paths():
    space = OperationSpace(PUBLISHED)
    assert space.size == 3**12 == 531_441
    assert space.choices == (3,) * 12


def test_a_path_and_back():
    space = OperationSpace(PUBLISHED)
    gene = space.gene_of(PUBLISHED)
    assert gene == (0, 2, 1, 1, 1, 1, 0, 1, 2, 1, 0, 1)
    found = space.genotype(gene)
    assert found.name == "c2fnas_ops_2p333323p323"
    assert dataclasses.replace(found, name="c2fnas") == PUBLISHED
    assert space.gene_of(found) == gene


def test_the_kind_of_cell_stays_that_of_the_base():
    summed = genotype.load("c2fnas_sum").with_size(filters=4)
    found = OperationSpace(summed).genotype((2,) * 12)
    assert {(cell.op, cell.merge, cell.outer, cell.down) for cell in found.cells} == {
        ("p3d", "before_op", "conv", "before_first")
    }
    assert found.filters == 4


def test_a_limit_on_macs():
    macs = {gene: OperationSpace(TINY).genotype(gene).macs((4, 4, 4)) for gene in _all()}
    limit = sorted(macs.values())[4]
    space = OperationSpace(TINY, patch_size=(4, 4, 4), most_macs=limit)
    assert {gene for gene in _all() if space.is_valid(gene)} == {
        gene for gene, cost in macs.items() if cost <= limit
    }
    with pytest.raises(ValueError, match=r"most_macs is 1; the cheapest path of 'tiny' needs"):
        OperationSpace(TINY, patch_size=(4, 4, 4), most_macs=1)
    with pytest.raises(ValueError, match="without patch_size"):
        OperationSpace(TINY, most_macs=1e9)


def _all():
    return [(one, other) for one in range(3) for other in range(3)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OperationSpace(TINY, ("conv2d", "conv4d")), "conv2d, conv4d; expected"),
        (lambda: OperationSpace(TINY, ("conv2d", "conv2d")), "each once"),
        (lambda: OperationSpace(TINY, ()), "operations are none"),
        (lambda: OperationSpace(TINY, ("conv2d",)).gene_of(TINY), "applies conv3d; .* has conv2d"),
        (lambda: OperationSpace(TINY).gene_of(PUBLISHED), "'c2fnas' is not a path"),
        (lambda: OperationSpace(TINY).gene_of(TINY.with_size(filters=2)), "is not a path"),
        (lambda: OperationSpace(TINY).genotype((0, 3)), "choice 3 at place 1"),
    ],
)
def test_what_is_outside_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
