import itertools

import numpy as np
import pytest
from scipy.spatial.distance import squareform

from c2fnas.search import clustering
from c2fnas.search.distance import pairwise
from c2fnas.search.topology_space import TopologySpace

LINE = np.array([0.0, 1.0, 10.0, 11.0, 12.0, 30.0])  # three groups that anyone sees


def _distances(points):
    return np.array([abs(a - b) for a, b in itertools.combinations(points, 2)])


def test_groups_that_anyone_sees():
    found = clustering.clusters(_distances(LINE), 3)
    assert found == [[0, 1], [2, 3, 4], [5]]
    assert clustering.clusters(_distances(LINE), 6) == [[n] for n in range(6)]
    assert clustering.clusters(_distances(LINE), 1) == [list(range(6))]
    assert clustering.clusters(np.array([]), 1) == [[0]]


def test_the_number_of_groups_is_kept_where_distances_are_equal():
    equal = np.ones(10)  # five things, all equally far
    assert [len(clustering.clusters(equal, count)) for count in range(1, 6)] == [1, 2, 3, 4, 5]


def test_topologies_are_closer_inside_than_between():
    space = TopologySpace()
    levels = [space.levels(gene) for gene in space.genes()]
    apart = pairwise(levels)
    groups = clustering.clusters(apart, 12)
    apart = squareform(apart)
    assert len(groups) == 12
    assert sorted(itertools.chain(*groups)) == list(range(924))
    owner = {member: number for number, group in enumerate(groups) for member in group}
    inside, between = [], []
    for one, other in itertools.combinations(range(0, 924, 7), 2):
        there = inside if owner[one] == owner[other] else between
        there.append(apart[one, other])
    assert np.mean(inside) < 0.5 * np.mean(between)


def test_one_of_each_is_a_function_of_the_seed_and_reaches_every_member():
    groups = [[0, 1], [2, 3, 4], [5]]
    assert clustering.one_of_each(groups, 3) == clustering.one_of_each(groups, 3)
    drawn = {tuple(clustering.one_of_each(groups, seed)) for seed in range(200)}
    assert drawn == set(itertools.product(*groups))


@pytest.mark.parametrize("count", [0, 7])
def test_impossible_numbers_of_groups(count):
    with pytest.raises(ValueError, match=f"count is {count}; expected 1 to 6"):
        clustering.clusters(_distances(LINE), count)
