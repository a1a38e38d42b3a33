import collections

from scipy import stats

from c2fnas import genotype
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.paths import path_at
from c2fnas.search.topology_space import TopologySpace

SPACE = OperationSpace(genotype.load("c2fnas"))


def test_a_path_is_a_function_of_seed_round_and_step():
    path = path_at(SPACE, 1, 2, 3)
    assert path == path_at(SPACE, 1, 2, 3)
    others = [path_at(SPACE, *key) for key in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2))]
    assert path not in others
    # Written down, so that a changed release cannot take other paths when it resumes a training.
    assert path_at(SPACE, 1, 0, 0) == RECORDED


RECORDED = (0, 1, 0, 0, 2, 1, 2, 1, 2, 1, 0, 1)


def test_paths_are_uniform():
    """Each cell's operations, and each pair of neighbouring cells', by a chi-squared test."""
    steps = 3000
    paths = [path_at(SPACE, 5, 0, step) for step in range(steps)]
    assert len(set(paths)) > 0.99 * steps
    smallest = []
    for cell in range(12):
        counts = collections.Counter(path[cell] for path in paths)
        smallest.append(stats.chisquare([counts[choice] for choice in range(3)]).pvalue)
    for cell in range(11):
        counts = collections.Counter(path[cell : cell + 2] for path in paths)
        smallest.append(stats.chisquare([counts[a, b] for a in range(3) for b in range(3)]).pvalue)
    assert min(smallest) > 0.01 / len(smallest)


def test_topologies_are_uniform_too():
    space = TopologySpace(down=2, up=2)
    counts = collections.Counter(path_at(space, 5, 0, step) for step in range(1200))
    assert stats.chisquare([counts[gene] for gene in space.genes()]).pvalue > 0.01
