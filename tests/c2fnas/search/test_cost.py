import dataclasses
import itertools

import pytest

from c2fnas import genotype
from c2fnas.genotype import CellGene, Genotype
from c2fnas.search.cost import supernet_cost
from c2fnas.search.operation_space import OperationSpace

TINY = OperationSpace(
    Genotype(
        "tiny",
        (CellGene((0,), 2, "conv3d"), CellGene((1, 0), 1, "conv2d", merge="before_op")),
        filters=2,
    )
)


def test_by_looking_at_every_path():
    patch = (8, 8, 4)
    paths = [TINY.genotype(gene) for gene in itertools.product(range(3), repeat=2)]
    macs = [path.macs(patch) for path in paths]
    weights = [path.conv_weights() for path in paths]
    found = supernet_cost(TINY, patch)
    assert found.macs == (min(macs), pytest.approx(sum(macs) / 9), max(macs))
    assert found.path_weights == (min(weights), max(weights))


def test_the_weights_of_all_paths_by_hand():
    width_2, width_1 = 8, 4
    extra = (9 + 9 + 3) * width_2**2 + (9 + 9 + 3) * width_1**2  # conv2d and p3d beside conv3d
    every = TINY.genotype((1, 1)).conv_weights()
    assert supernet_cost(TINY, (4, 4, 4)).weights == every + extra


def test_at_the_papers_size():
    published = genotype.load("c2fnas")
    space = OperationSpace(published)
    found = supernet_cost(space, (96, 96, 96))
    least, mean, most = found.macs
    assert least < mean < most
    assert least <= published.macs((96, 96, 96)) <= most
    assert found.path_weights[0] <= published.conv_weights() <= found.path_weights[1]
    limited = dataclasses.replace(space, patch_size=(96, 96, 96), most_macs=1.1 * least)
    assert supernet_cost(limited, (96, 96, 96)) == found


def test_a_patch_that_does_not_fit():
    with pytest.raises(ValueError, match=r"\(9, 8, 8\)"):
        supernet_cost(TINY, (9, 8, 8))
