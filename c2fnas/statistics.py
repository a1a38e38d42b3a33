"""Means over cases with what they rest on: a bootstrap interval and the number of cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from runkit import randomness


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over cases.

    Attributes:
      value: the mean; None where no case counts.
      low, high: bounds of its 95 % interval; None with fewer than two cases, which show no spread.
      cases: how many count.
    """

    value: float | None
    low: float | None
    high: float | None
    cases: int


def mean(values: Iterable[float | None], *, seed: int = 0, resamples: int = 10_000, level: float = 0.95) -> Mean:
    """Returns the mean of what each case scored, with its percentile bootstrap interval.

    Args:
      values: one a case; None where the case has no score (see metrics.py) and does not count.
      seed: of the resampling, so that the same scores give the same interval. The number of cases is part of it.
      resamples: of the cases, with replacement.
      level: of the interval.
    Source: Efron and Tibshirani 1993, chapter 13.
    """
    scores = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(scores):
        return Mean(None, None, None, 0)
    middle = float(scores.mean())
    if len(scores) < 2:
        return Mean(middle, None, None, 1)
    generator = randomness.generator(seed, "bootstrap", len(scores))
    means = np.empty(resamples)
    step = max(1, 2**22 // len(scores))  # 32 MB of indices at a time
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        means[start : start + count] = scores[generator.integers(len(scores), size=(count, len(scores)))].mean(axis=1)
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return Mean(middle, float(low), float(high), len(scores))
