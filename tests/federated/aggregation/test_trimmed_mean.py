import numpy as np
import pytest

from federated.aggregation.median import Median
from federated.aggregation.rule import Slab
from federated.aggregation.trimmed_mean import TrimmedMean


def reference(memory, model, updates, examples, *, trim):
    del memory, model, examples
    kept = updates.copy()
    for _ in range(trim):
        for furthest in (np.nanargmax, np.nanargmin):
            dropped = np.expand_dims(furthest(kept, axis=0), axis=0)
            np.put_along_axis(kept, dropped, np.nan, axis=0)
    return np.nanmean(kept, axis=0)


def trimmed(updates, *, trim=1, examples=None, rule=None):
    rule = rule or TrimmedMean(trim=trim)
    examples = examples or [1] * len(updates)
    return rule.aggregate(Slab(iter(updates), examples, np.empty(0), {})).model


def test_the_largest_and_the_smallest_of_each_value_are_dropped():
    updates = np.float32([[1.0, 100.0], [2.0, 3.0], [4.0, 4.0], [-50.0, 8.0]])
    np.testing.assert_array_equal(trimmed(updates), [1.5, 6.0])  # (1 + 2)/2, (4 + 8)/2


def test_two_at_each_end_are_dropped():
    updates = np.float32([[7.0], [-9.0], [1.0], [2.0], [6.0], [99.0], [-1.0]])
    assert trimmed(updates, trim=2) == 3.0  # (1 + 2 + 6)/3


def test_training_cases_do_not_count():
    updates = np.float32([[1.0], [2.0], [4.0], [9.0]])
    assert trimmed(updates, examples=[1, 10**6, 1, 1]) == trimmed(updates) == 3.0


@pytest.mark.parametrize("trim", [1, 2, 3])
def test_where_one_value_remains_it_is_the_median(trim):
    updates = np.random.default_rng(trim).normal(size=(2 * trim + 1, 300)).astype(np.float32)
    expected = trimmed(updates, rule=Median())
    np.testing.assert_array_equal(trimmed(updates, trim=trim), expected)


@pytest.mark.parametrize("bad", [(3e38, 3e38), (-3e38, 3e38), (0.0, -3e38)])
def test_as_many_bad_sites_as_are_trimmed_move_no_value_out_of_the_range_of_the_others(bad):
    sound = np.random.default_rng(4).normal(size=(4, 200)).astype(np.float32)
    found = trimmed([*sound, *(np.full(200, value, "f4") for value in bad)], trim=2)
    assert (found >= sound.min(axis=0)).all() and (found <= sound.max(axis=0)).all()


def test_the_sum_is_in_float64():
    updates = np.float32([[-1e30], [1.0], [16777216.0], [1e30]])
    assert trimmed(updates) == 8388608.5
