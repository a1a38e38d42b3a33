import itertools

import numpy as np
import pytest
from scipy.spatial.distance import squareform

from c2fnas.search.distance import level_distance, pairwise
from c2fnas.search.topology_space import TopologySpace

SPACE = TopologySpace(down=3, up=3)
LEVELS = [SPACE.levels(gene) for gene in SPACE.genes()]


def test_by_hand():
    assert level_distance((1, 2, 3, 3, 2, 1), (1, 1, 2, 1, 1, 1)) == 0 + 1 + 1 + 2 + 1 + 0


def test_it_is_a_metric():
    for one, other in itertools.product(LEVELS, repeat=2):
        assert (level_distance(one, other) == 0) == (one == other)
        assert level_distance(one, other) == level_distance(other, one)
    for one, between, other in itertools.product(LEVELS[::3], repeat=3):
        assert level_distance(one, other) <= level_distance(one, between) + level_distance(
            between, other
        )


def test_all_pairs():
    expected = [[level_distance(one, other) for other in LEVELS] for one in LEVELS]
    np.testing.assert_array_equal(squareform(pairwise(LEVELS)), expected)


def test_different_numbers_of_cells():
    with pytest.raises(ValueError, match="of 2 and 3 cells"):
        level_distance((1, 1), (1, 1, 1))
