"""Weighted means of metrics, and of whole updates in memory.

The means of updates have the same bits as those of this product's own server.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federated.aggregation.weighted_mean import weighted_mean
from federated.tensors.weights import NamedArrays, check_same, specs_of


def averaged(updates: Mapping[str, tuple[Mapping[str, np.ndarray], int]]) -> NamedArrays:
    """Returns the mean of the sites' arrays, weighted by their numbers of training cases.

    It is computed in float64, in the order of the sites' names. The engines' own rules add up in
    the weights' dtype and in order of arrival.

    Args:
      updates: site name -> (arrays, number of training cases).
    Raises:
      ValueError: without updates, or for a site without training cases.
      IncompatibleWeights: if two updates differ in a name, shape or dtype.
    """
    if not updates:
        raise ValueError("no update to average; a round needs at least one")
    ordered = [updates[site] for site in sorted(updates)]
    first, num_examples = ordered[0][0], [examples for _, examples in ordered]
    for site, (arrays, examples) in updates.items():
        if examples <= 0:
            raise ValueError(f"site {site!r} has num_examples {examples}; expected at least 1")
        check_same(specs_of(first), specs_of(arrays), what=f"update of site {site!r}")
    return {
        name: weighted_mean((arrays[name] for arrays, _ in ordered), num_examples).astype(
            array.dtype
        )
        for name, array in first.items()
    }


def mean_metrics(
    metrics: Mapping[str, Mapping[str, float]], num_examples: Mapping[str, int]
) -> dict[str, float]:
    """Returns the weighted mean of each metric that every site reports, sorted by name.

    Args:
      metrics: site name -> metrics, of at least one site.
      num_examples: site name -> number of training cases.
    """
    shared = set.intersection(*(set(reported) for reported in metrics.values()))
    total = sum(num_examples[site] for site in metrics)
    return {
        name: sum(num_examples[site] * metrics[site][name] for site in sorted(metrics)) / total
        for name in sorted(shared)
    }
