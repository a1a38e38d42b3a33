import numpy as np

from federated.aggregation.fedavg import FedAvg
from federated.aggregation.rule import Slab


def reference(memory, model, updates, examples):
    del memory, model
    return np.average(updates, axis=0, weights=examples)


def test_the_mean_is_weighted_by_training_cases():
    updates = [np.float32([4.0, 0.0]), np.float32([8.0, 1.0])]
    result = FedAvg().aggregate(Slab(updates, [3, 1], np.empty(0), {}))
    np.testing.assert_array_equal(result.model, [5.0, 0.25])  # (3*4 + 8)/4, 1/4
