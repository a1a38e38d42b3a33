import itertools

import numpy as np
from scipy.spatial.distance import squareform

from c2fnas.search.distance import pairwise
from c2fnas.search.topology_space import TopologySpace

SPACE = TopologySpace(down=3, up=3)
LEVELS = [SPACE.levels(gene) for gene in SPACE.genes()]


def test_by_hand():
    found = pairwise([(1, 2, 3, 3, 2, 1), (1, 1, 2, 1, 1, 1)])
    np.testing.assert_array_equal(found, [0 + 1 + 1 + 2 + 1 + 0])


def test_it_is_a_metric():
    found = squareform(pairwise(LEVELS))
    assert ((found == 0) == np.eye(len(LEVELS), dtype=bool)).all()
    assert (found == found.T).all()
    assert (found[:, None, :] <= found[:, :, None] + found[None, :, :]).all()


def test_all_pairs_in_their_order():
    expected = [
        sum(abs(a - b) for a, b in zip(one, other, strict=True))
        for one, other in itertools.combinations(LEVELS, 2)
    ]
    np.testing.assert_array_equal(pairwise(LEVELS), expected)
