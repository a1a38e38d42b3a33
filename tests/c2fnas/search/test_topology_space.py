import dataclasses
import itertools
import math

import pytest

from c2fnas import genotype
from c2fnas.genotype import CellGene
from c2fnas.search.topology_space import TopologySpace

PUBLISHED = (1, 1, 2, 2, 3, 4, 3, 3, 2, 1, 1, 1)


def _walks():
    """Counts the walks step by step, without the formula: level after each cell -> count."""
    counts = {1: 1}
    for number in range(12):
        after = {}
        for level, count in counts.items():
            for step in (0, 1):
                there = level + step if number < 6 else level - step
                after[there] = after.get(there, 0) + count
        counts = after
    return counts


def test_the_space_of_the_paper_has_924_topologies():
    space = TopologySpace()
    genes = list(space.genes())
    assert space.size == len(genes) == len(set(genes)) == math.comb(12, 6) == _walks()[1] == 924
    levels = {space.levels(gene) for gene in genes}
    assert len(levels) == 924
    assert {walk[-1] for walk in levels} == {1}


@pytest.mark.parametrize(("deepest", "count"), [(1, 1), (2, 37), (4, 662), (5, 887), (7, 924)])
def test_a_limit_on_depth(deepest, count):
    space = TopologySpace(deepest=deepest)
    assert space.size == len(list(space.genes())) == count
    assert max(max(space.levels(gene)) for gene in space.genes()) == deepest


def test_every_topology_is_a_genotype_with_the_levels_that_it_says():
    space = TopologySpace(filters=4)
    genotypes = {gene: space.genotype(gene) for gene in space.genes()}
    assert len({found.fingerprint() for found in genotypes.values()}) == 924
    for gene, found in genotypes.items():
        assert tuple(cell.level for cell in found.cells) == space.levels(gene)
        assert space.gene_of(space.levels(gene)) == gene
        assert {cell.op for cell in found.cells} == {"conv3d"}
        assert found.filters == 4
        assert genotype.Genotype.from_json(found.to_json()) == found
    # Those that the end could not join before: the last step goes up.
    assert sum(found.end_doubles for found in genotypes.values()) == 924 - 381 - 75 - 6


def test_the_published_wiring_follows_from_its_levels():
    space = TopologySpace()
    found = space.genotype(space.gene_of(PUBLISHED))
    published = genotype.load("c2fnas")
    assert [cell.inputs for cell in found.cells] == [cell.inputs for cell in published.cells]
    assert found.name == "levels_112234332111"
    cells = tuple(dataclasses.replace(cell, op="conv3d") for cell in published.cells)
    assert dataclasses.replace(published, name=found.name, cells=cells) == found


def test_a_small_space_by_hand():
    space = TopologySpace(down=2, up=2, filters=1, op="conv2d")
    assert list(space.genes()) == [
        (0, 0, 0, 0),
        (0, 1, 0, 1),
        (0, 1, 1, 0),
        (1, 0, 0, 1),
        (1, 0, 1, 0),
        (1, 1, 1, 1),
    ]
    assert space.genotype((1, 0, 0, 1)).cells == (
        CellGene((0,), 2, "conv2d"),
        CellGene((1,), 2, "conv2d"),  # two before it is the stem, on level 1
        CellGene((2, 1), 2, "conv2d"),
        CellGene((3, 0), 1, "conv2d"),
    )
    assert space.genotype((1, 1, 1, 1)).cells[2:] == (
        CellGene((2, 1), 2, "conv2d"),
        CellGene((3, 0), 1, "conv2d"),
    )
    assert space.genotype((0, 0, 0, 0)).cells[1] == CellGene((1, 0), 1, "conv2d")


def test_more_than_nine_levels_keep_their_names_apart():
    space = TopologySpace(down=10, up=10, deepest=11)
    names = {space.genotype(gene).name for gene in itertools.islice(space.genes(), 50)}
    deepest = space.genotype((1,) * 20).name
    assert len(names) == 50
    assert deepest.startswith("levels_2_3_4_") and "_11_10_" in deepest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopologySpace(down=0), "down is 0, up 6"),
        (lambda: TopologySpace(op="conv4d"), "op is 'conv4d'"),
        (lambda: TopologySpace().gene_of((1, 1, 1)), "not those of 12 cells"),
        (lambda: TopologySpace().gene_of((3, *PUBLISHED[1:])), "has choice 2 at place 0"),
        (lambda: TopologySpace().genotype((1, *(0,) * 11)), "outside the search space"),
        (lambda: TopologySpace(deepest=3).gene_of(PUBLISHED), "deepest=3"),
    ],
)
def test_what_is_outside_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
