import numpy as np
import pytest

from federated.privacy import percentile

RNG = np.random.default_rng(5)


def test_by_hand():
    change = np.array([0.1, -5.0, 3.0, 0.0, -0.2, 4.0, 0.3, 2.0])
    assert percentile.largest(change, 75).nonzero()[0].tolist() == [1, 5]
    assert percentile.largest(change, 50).nonzero()[0].tolist() == [1, 2, 5, 7]
    assert not percentile.largest(change, 99).any()  # of 8 values less than one


@pytest.mark.parametrize("given", [10, 50, 75, 90, 99.9])
def test_the_shared_values_are_the_largest_by_sorting(given):
    change = RNG.normal(size=10_000)
    expected = np.argsort(-np.abs(change))[: int(10_000 * (1 - given / 100))]
    assert set(percentile.largest(change, given).nonzero()[0]) == set(expected)


def test_never_more_is_shared_than_was_asked_for_where_values_are_equal():
    change = np.array([1.0, -1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 1.0])
    assert percentile.largest(change, 50).nonzero()[0].tolist() == [0, 1, 2, 4]
    assert percentile.largest(np.zeros(100), 75).sum() == 25


def test_a_bound_cuts_off_both_signs():
    change = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    assert percentile.bounded(change, 1.0).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert percentile.bounded(change, None) is change
