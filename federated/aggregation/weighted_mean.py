"""The weighted mean of several arrays, in one order and one precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def weighted_mean(arrays: Iterable[np.ndarray], num_examples: Sequence[int]) -> np.ndarray:
    """Returns sum(n_i * x_i) / sum(n_i) in float64, accumulated in the order given.

    The arrays are consumed one by one, so with a generator only one of them is in memory. An
    integer n times a float32 is exact in float64 while n < 2**29, so the mean of a single site
    equals that site's values bit for bit.

    Raises:
      ValueError: without arrays, or if their number differs from that of the weights.
    """
    total: np.ndarray | None = None
    for array, examples in zip(arrays, num_examples, strict=True):
        if total is None:
            total, term = np.empty(array.shape), np.empty(array.shape)
            np.multiply(array, float(examples), out=total, dtype=np.float64)
        else:
            total += np.multiply(array, float(examples), out=term, dtype=np.float64)
    if total is None:
        raise ValueError("there is no array to average; give at least one")
    return np.divide(total, float(sum(num_examples)), out=total)
