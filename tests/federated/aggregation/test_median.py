import numpy as np
import pytest

from federated.aggregation.median import Median
from federated.aggregation.rule import Slab


def reference(memory, model, updates, examples):
    del memory, model, examples
    return np.median(updates, axis=0)


def median(updates, examples):
    return Median().aggregate(Slab(iter(updates), examples, np.empty(0), {})).model


def test_of_an_odd_number_of_updates_it_is_the_middle_value():
    updates = np.float32([[1.0, 9.0], [5.0, -7.0], [2.0, 3.0]])
    np.testing.assert_array_equal(median(updates, [1, 1, 1]), [2.0, 3.0])


def test_of_an_even_number_it_is_the_mean_of_the_two_in_the_middle_in_float64():
    updates = np.float32([[1.0], [16777216.0], [16777218.0], [1e30]])
    assert median(updates, [1, 1, 1, 1]) == 16777217.0  # which float32 does not have


def test_training_cases_do_not_count():
    updates = np.float32([[1.0], [5.0], [2.0]])
    assert median(updates, [1, 10**6, 1]) == median(updates, [7, 7, 7]) == 2.0


@pytest.mark.parametrize("bad", [-3e38, 3e38, 0.0])
def test_two_bad_sites_of_five_move_no_value_out_of_the_range_of_the_others(bad):
    sound = np.random.default_rng(4).normal(size=(3, 200)).astype(np.float32)
    found = median([*sound, np.full(200, bad, "f4"), np.full(200, bad, "f4")], [1] * 5)
    assert (found >= sound.min(axis=0)).all() and (found <= sound.max(axis=0)).all()


def test_zeros_of_either_sign_give_the_same_bits_in_any_order():
    zeros = np.float32([[0.0], [-0.0], [-0.0]])
    orders = [[0, 1, 2], [2, 1, 0], [1, 0, 2]]
    assert {median(zeros[order], [1] * 3).tobytes() for order in orders} == {bytes(8)}
