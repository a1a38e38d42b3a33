"""Intervals and tests of paired numbers: arrays in, values out. Knows no model, no column and no file.

A *unit* is what is independent: a patient. Two models scored on the same patients give one difference per unit, and every statement
here is about the mean of those differences. None of these numbers says how much another training seed would change; the tables show
each seed beside them for that.

scipy.stats takes as long to import as the rest of a small program: only what needs it imports it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from runkit.randomness import generator

LEVEL = 0.95
RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and the interval about it, in the unit of what was measured; `count` units made it."""

    estimate: float
    low: float
    high: float
    count: int

    def scaled(self, factor: float) -> Interval:
        """The same in another unit, e.g. a factor of 100 for per cent."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor, self.count)


def bootstrap_mean(
    values: Sequence[float], strata: Sequence[object] | None = None, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 1
) -> Interval:
    """Returns the mean of `values` and its percentile bootstrap interval; the same numbers give the same interval.

    Args:
      values: one a unit.
      strata: unit -> group that is resampled within itself, so that the groups' sizes stay as they are (sites, seeds).
    Raises:
      ValueError: without a value, or where the lengths differ.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("no value to take a mean of; have the sites evaluate their models first")
    groups = [repr(group) for group in strata] if strata is not None else ["all"] * len(values)
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values and {len(groups)} strata; give one of each a unit")
    sums = np.zeros(resamples)
    for group in sorted(set(groups)):
        own = values[[g == group for g in groups]]
        drawn = generator(seed, "bootstrap", group, len(own)).integers(0, len(own), (resamples, len(own)))
        sums += own[drawn].sum(axis=1)
    low, high = np.quantile(sums / len(values), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def bootstrap_difference(
    first: Sequence[float], second: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 1
) -> Interval:
    """Returns mean(first) - mean(second) of two groups of *different* patients, each resampled by itself."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not a.size or not b.size:
        raise ValueError("a difference of means needs a value on both sides; have both sites evaluate first")
    rng = generator(seed, "bootstrap difference", len(a), len(b))
    means = a[rng.integers(0, len(a), (resamples, len(a)))].mean(axis=1) - b[rng.integers(0, len(b), (resamples, len(b)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(a.mean() - b.mean()), float(low), float(high), len(a) + len(b))


def student_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    """Returns mean and Student's t interval over repetitions (seeds); None for fewer than two, which show no spread."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    from scipy import stats

    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half), len(values))


def wilcoxon(differences: Sequence[float], alternative: str = "greater") -> float | None:
    """Returns the p-value of the Wilcoxon signed-rank test; ties at zero count on neither side (Wilcoxon's own rule).

    Returns None where no difference is other than zero: there is nothing to test.
    """
    differences = np.asarray(differences, dtype=float)
    if not np.any(differences):
        return None
    from scipy import stats

    # exact where the sample is small and without ties, as scipy decides
    return float(stats.wilcoxon(differences, zero_method="wilcox", alternative=alternative).pvalue)


def mann_whitney(first: Sequence[float], second: Sequence[float], alternative: str = "greater") -> float:
    """Returns the p-value of the rank test for two groups of different patients (Mann and Whitney 1947)."""
    from scipy import stats

    return float(stats.mannwhitneyu(first, second, alternative=alternative).pvalue)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Returns p-values adjusted for their number (Holm 1979), never below what they were nor above 1; None stays None and counts not."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = highest
    return adjusted


def binomial_interval(successes: int, trials: int, *, level: float = LEVEL) -> Interval:
    """Returns a share and its exact interval (Clopper and Pearson 1934)."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no share; expected at least one trial")
    from scipy import stats

    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.ppf(1 - tail, successes + 1, trials - successes))
    return Interval(successes / trials, low, high, trials)
