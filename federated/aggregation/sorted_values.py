"""The values of all sites, sorted value by value, for the robust rules."""

from __future__ import annotations

import numpy as np

from federated.aggregation.rule import Slab
from federated.aggregation.weighted_mean import weighted_mean


def sorted_values(slab: Slab) -> np.ndarray:
    """Returns the updates of a slab as [sites, values] in the model's dtype, each column ascending.

    It holds the slab of every site at once, so a rule that uses it sets `gathers_updates`.
    """
    values = np.stack(list(slab.updates))
    values.sort(axis=0)
    return values


def mean_of_sorted(values: np.ndarray) -> np.ndarray:
    """Returns the float64 mean of each column of `sorted_values`, or of some rows of it.

    The result has the same bits for any order of the sites, on any machine: sorting leaves only the
    order of -0 and 0 undetermined, and this function makes a sum of zeros 0.
    """
    return weighted_mean(values, [1] * len(values)) + 0.0
