"""Groups of patients' values, from which a claim's estimate and its spread follow.

A claim estimates the sum of weight times mean over its groups: one group for models that are
compared on the same patients, two with weights 1 and -1 for patients of two sites.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.results.measures import Unit

Groups = list[tuple[float, dict[Unit, float]]]  # (weight, values by patient)


def estimate(groups: Groups) -> float:
    """Returns the sum of weight times mean."""
    return float(sum(weight * np.mean(list(values.values())) for weight, values in groups))


def averaged(trainings: Sequence[Groups]) -> Groups:
    """Returns each patient's value averaged over the trainings that have one."""
    found = []
    for groups in zip(*trainings, strict=True):
        each: dict[Unit, list[float]] = {}
        for _, values in groups:
            for unit, value in values.items():
                each.setdefault(unit, []).append(value)
        found.append(
            (groups[0][0], {unit: float(np.mean(values)) for unit, values in each.items()})
        )
    return found


def strata(cohorts: Sequence[Groups]) -> list[tuple[float, np.ndarray]]:
    """Returns (weight, values) of each site's patients.

    The sum of weight times mean is the mean estimate of the cohorts.
    """
    found = []
    for groups in cohorts:
        for weight, values in groups:
            for site in sorted({unit[1] for unit in values}):
                own = np.array([value for unit, value in values.items() if unit[1] == site])
                found.append((weight * len(own) / len(values) / len(cohorts), own))
    return found
