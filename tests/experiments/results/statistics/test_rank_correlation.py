"""Kendall's tau against scipy and arithmetic by hand; its interval against simulated studies."""

import numpy as np
import pytest
from scipy import stats

from experiments.results.statistics.rank_correlation import correlation, kendall
from tests.benchmarks import tau_coverage


def test_tau_by_hand():
    # of six pairs, (1, 2) alone is ordered differently: (5 - 1) / 6
    assert kendall([0.1, 0.2, 0.3, 0.4], [20, 10, 30, 40]) == pytest.approx(4 / 6)
    assert kendall([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall([1, 1, 1], [3, 2, 1]) is None


@pytest.mark.parametrize("ties", [False, True])
def test_tau_is_that_of_scipy_with_and_without_ties(ties):
    rng = np.random.default_rng(3)
    for _ in range(20):
        one, two = rng.normal(size=(2, 9))
        if ties:
            one, two = np.round(one), np.round(two)
        assert kendall(one, two) == pytest.approx(stats.kendalltau(one, two).statistic)


def test_the_interval_is_around_tau_of_the_means_and_repeats_with_its_seed():
    first = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    alone = [[x + d for d in (-0.3, 0.0, 0.33)] for x in (0.1, 0.3, 0.2, 0.4, 0.6, 0.5, 0.8, 0.7)]
    found = correlation(first, alone, seed=1)
    expected = stats.kendalltau(first, np.mean(alone, axis=1)).statistic
    assert found.tau == pytest.approx(expected) and found.low < found.tau < found.high <= 1.0
    again = correlation(first, alone, seed=1)
    np.testing.assert_array_equal(found.draws, again.draws)
    assert (found.networks, found.seeds) == (8, 3)
    assert found.p(-0.99) < 0.05 < found.p(found.tau)


def test_without_noise_and_with_one_order_every_draw_is_1():
    found = correlation([1, 2, 3, 4, 5], [[10.0], [20.0], [30.0], [40.0], [50.0]], seed=2)
    assert set(found.draws) == {1.0} and (found.low, found.high) == (1.0, 1.0)
    assert found.p(0.0) < 0.001


def test_two_draws_of_one_network_are_no_pair():
    """With two networks, a draw has either the one pair or none at all."""
    found = correlation([1.0, 2.0], [[1.0], [0.0]], seed=3, resamples=400)
    assert set(found.draws) == {-1.0} and 150 < len(found.draws) < 250


def test_the_interval_covers_the_tau_of_a_population():
    assert tau_coverage.coverage(8, 3, 0.5, 0.5, studies=150) > 0.93


def test_scores_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="expected the same number of trainings"):
        correlation([1.0, 2.0], [[1.0], [1.0, 2.0]], seed=1)
    with pytest.raises(ValueError, match="expected two lists of at least two"):
        kendall([1.0], [1.0])
