"""A trainer whose weights have random bits, so that a sum in another precision shows."""

from __future__ import annotations

import numpy as np

from federated.tensors.weights import specs_of
from tests.federated import toy

INITIAL = {
    **toy.INITIAL,
    "norm/moving_variance": np.float32(1 / 3) * np.ones(5, np.float32),
    "wide": np.array([1 / 3, 1 / 7]),  # float64
}


class SeededTrainer(toy.ToyTrainer):
    """Adds values drawn from the round and the site's name."""

    specs = specs_of(INITIAL)

    def train(self, weights, round_number):
        random = np.random.default_rng([round_number, *self.site.encode()])
        for array in weights.values():
            assert isinstance(array, np.ndarray) and array.flags.writeable
            array += random.normal(size=array.shape)
        return weights, {"loss": 1.0 / round_number}


def write_initial(path):
    return toy.write_initial(path, arrays=INITIAL)


def assert_same_bits(arrays, expected, what):
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert array.tobytes() == expected[name].tobytes(), f"{name}, {what}"
