"""A trainer whose weights have random bits, so that a sum in another precision shows."""

from __future__ import annotations

import os
import time

import numpy as np

from federated.tensors.weights import specs_of
from tests.federated import toy

INITIAL = {
    **toy.INITIAL,
    "norm/moving_variance": np.float32(1 / 3) * np.ones(5, np.float32),
    "wide": np.array([1 / 3, 1 / 7]),  # float64
    "bulk": np.ones(int(os.environ.get("SEEDED_BULK", "8")), np.float32),
}


class SeededTrainer(toy.ToyTrainer):
    """Adds values drawn from the round and the site's name.

    With SEEDED_TIMES, C1 appends the moment of each call of `train` to that file.
    """

    specs = specs_of(INITIAL)

    def train(self, weights, round_number):
        if self.site == "C1" and "SEEDED_TIMES" in os.environ:
            with open(os.environ["SEEDED_TIMES"], "a") as times:
                times.write(f"{time.time()}\n")
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
