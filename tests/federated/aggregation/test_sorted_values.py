import numpy as np

from federated.aggregation.rule import Slab
from federated.aggregation.sorted_values import mean_of_sorted, sorted_values


def test_each_column_is_sorted_in_the_models_dtype_and_the_updates_stay_as_they_were():
    updates = [np.float16([3.0, -1.0]), np.float16([1.0, 0.5]), np.float16([2.0, -2.0])]
    for update in updates:
        update.setflags(write=False)  # as those that are read from a file
    values = sorted_values(Slab(iter(updates), [1, 1, 1], np.empty(0), {}))
    assert values.dtype == np.float16
    assert values.tolist() == [[1.0, -2.0], [2.0, -1.0], [3.0, 0.5]]
    assert updates[0].tolist() == [3.0, -1.0]


def test_the_mean_is_in_float64_and_never_a_negative_zero():
    values = np.float16([[-0.0, 60000.0], [-0.0, 60000.0]])
    mean = mean_of_sorted(values)
    assert mean.dtype == np.float64
    assert mean.tobytes() == np.array([0.0, 60000.0]).tobytes()
