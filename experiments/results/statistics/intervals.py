"""Intervals and tests of means and shares: arrays in, values out.

A *unit* is an independent observation: a patient, or a training. Values are on the last axis; axes
before it are repetitions, each with its own interval, so that simulations use the same code as
reports.

The interval of a mean is Student's t, per stratum, with Welch and Satterthwaite's degrees of
freedom over the strata, and wider if the values are skewed. The percentile bootstrap is not used:
with six values its coverage is 82 to 87 % instead of 95 %.

scipy.stats takes as long to import as the rest of a small program, so only functions that need it
import it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

LEVEL = 0.95
# Factors of the Edgeworth term below: 1.5 on the long side, because small samples understate their
# skewness, and half of that on the short side, because they may also get its sign wrong. Chosen for
# a coverage of at least 93 % with six values of an exponential (tests/benchmarks/verdict_rates.py).
_LONG_SIDE, _SHORT_SIDE = 1.5, 0.75
# A standard error up to this is rounding, not spread: equal numbers may differ in their last bits,
# as 0.1 + 0.2 and 0.3 do. It is far below the digits of every measure (shares, points, ml, mm).
_ROUNDING = 1e-9

Bounds = tuple[float | None, float | None]
NO_BOUNDS: Bounds = (None, None)


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate from `count` units, and the interval around it, in the measure's unit.

    An end is None if the values do not determine it: a single value, or equal ones, show no spread.
    """

    estimate: float
    low: float | None
    high: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class Mean:
    """An estimate with its standard error, from which intervals, tests and power follow.

    Attributes:
      estimate: floats or arrays of the same shape, like the others.
      error: standard error of the estimate.
      freedom: degrees of freedom of `error`.
      skewness: third central moment of the estimate over `error` cubed; 0 leaves Student's t
        unchanged.
    """

    estimate: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    skewness: np.ndarray

    def ends(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Returns the two ends of the interval.

        If the mean is skewed, the quantiles of the t statistic are off by skewness (2 t^2 + 1) / 6
        (Hall 1992, after Johnson 1978). The interval is widened by that, and never narrowed.
        """
        from scipy import stats

        t = stats.t.ppf((1 + level) / 2, self.freedom)
        below, above = self._growth
        term = 2 * t**2 + 1
        return self.estimate - self.error * (t + below * term), self.estimate + self.error * (
            t + above * term
        )

    def p(self, null: float = 0.0) -> np.ndarray:
        """Returns the two-sided p-value for a true mean of `null`; 1 without spread.

        It is below 0.05 exactly if `null` lies outside the 95 % interval.
        """
        from scipy import stats

        known = np.asarray(self.error) > 0
        distance = np.where(
            known, np.abs(null - self.estimate) / np.where(known, self.error, 1.0), 0.0
        )
        below, above = self._growth
        growth = np.where(null < self.estimate, below, above)
        # solves t + growth (2 t^2 + 1) = distance
        root = np.sqrt(np.maximum(1 + 8 * growth * (distance - growth), 0.0))
        t = 2 * np.maximum(distance - growth, 0.0) / (1 + root)
        return np.where(known, np.minimum(1.0, 2 * stats.t.sf(t, self.freedom)), 1.0)

    def detectable(self, level: float = LEVEL, power: float = 0.8) -> float:
        """Returns the distance from a null at which the interval excludes the null with this power.

        Only for a single mean, not for an array.
        """
        from scipy import optimize, stats

        freedom = round(float(self.freedom), 1)
        t = float(stats.t.ppf((1 + level) / 2, freedom))
        wall = t + max(float(growth) for growth in self._growth) * (2 * t**2 + 1)
        errors = _relative_errors(freedom)

        def missing(shift: float) -> float:
            return float(stats.norm.sf(wall * errors - shift).mean()) - power

        return float(self.error) * float(optimize.brentq(missing, 0.0, 6 * wall + 10))

    @property
    def _growth(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the growth below and above the estimate, per (2 t^2 + 1), in standard errors."""
        size, upwards = np.abs(self.skewness) / 6, np.asarray(self.skewness) > 0
        return size * np.where(upwards, _SHORT_SIDE, _LONG_SIDE), size * np.where(
            upwards, _LONG_SIDE, _SHORT_SIDE
        )


@functools.cache
def _relative_errors(freedom: float) -> np.ndarray:
    """Returns 500 equally likely ratios of an estimated standard error to the true one.

    The ratio is distributed like the square root of a chi-square over its degrees of freedom.
    """
    from scipy import stats

    return np.sqrt(stats.chi2.ppf((np.arange(500) + 0.5) / 500, freedom) / freedom)


def combination(parts: Sequence[tuple[float, np.ndarray]]) -> Mean | None:
    """Returns the sum of weight times mean over independent groups.

    Weights are e.g. the shares of strata, or 1 and -1 for a difference. A group of one value shows
    no spread; it gets the pooled variance of the others.

    Args:
      parts: weight and values [..., n] of each group.
    Returns:
      None if no group has two values.
    """
    groups = [(weight, np.asarray(values, dtype=float)) for weight, values in parts]
    several = [values for _, values in groups if values.shape[-1] > 1]
    if not several:
        return None
    shared_freedom = sum(values.shape[-1] - 1 for values in several)
    pooled = (
        sum(values.var(axis=-1, ddof=1) * (values.shape[-1] - 1) for values in several)
        / shared_freedom
    )
    estimate = variance = squares = third = np.zeros(several[0].shape[:-1])
    for weight, values in groups:
        n = values.shape[-1]
        mean = values.mean(axis=-1)
        own = weight**2 * (values.var(axis=-1, ddof=1) if n > 1 else pooled) / n
        estimate, variance = estimate + weight * mean, variance + own
        squares = squares + own**2 / (n - 1 if n > 1 else shared_freedom)
        if n > 2:  # the unbiased third moment; two values do not have one
            third = third + weight**3 * ((values - mean[..., None]) ** 3).sum(axis=-1) / (
                n * (n - 1) * (n - 2)
            )
    variance = np.where(variance > _ROUNDING**2, variance, 0.0)
    known = variance > 0
    freedom = np.where(known, variance**2 / np.where(squares > 0, squares, 1.0), 1.0)
    error = np.sqrt(variance)
    return Mean(
        estimate,
        error,
        np.maximum(freedom, 1.0),
        np.where(known, third / np.where(known, error, 1.0) ** 3, 0.0),
    )


def mean_interval(
    values: Sequence[float],
    strata: Sequence[object] | None = None,
    *,
    bounds: Bounds = NO_BOUNDS,
) -> Interval:
    """Returns the mean of `values` and its interval.

    If all values are equal, they show no spread. The interval then covers what unseen values at a
    bound could do to the mean: of `n` units, a share of up to 1 - ((1 - LEVEL) / 2) ** (1 / n) may
    lie there. An end without a bound is None.

    Args:
      values: one per unit.
      strata: the group of each unit, for groups of fixed sizes (sites, seeds); differences between
        groups then do not count as spread.
      bounds: limits of the values, and so of the interval.
    Raises:
      ValueError: if there is no value, or if the lengths differ.
    """
    own = np.asarray(values, dtype=float)
    if own.size == 0:
        raise ValueError(
            "there are no values to average; have the sites evaluate their models first"
        )
    groups = [repr(group) for group in strata] if strata is not None else ["all"] * len(own)
    if len(own) != len(groups):
        raise ValueError(
            f"{len(own)} values and {len(groups)} strata; give one stratum for each value"
        )
    parts = [own[[g == group for g in groups]] for group in sorted(set(groups))]
    spread = combination([(len(part) / len(own), part) for part in parts])
    spread = spread or combination([(1.0, own)])
    mean, (lowest, highest) = float(own.mean()), bounds
    if spread is None or not spread.error > 0:
        unseen = 1 - ((1 - LEVEL) / 2) ** (1 / len(own))
        low, high = (None if bound is None else mean + unseen * (bound - mean) for bound in bounds)
        return Interval(mean, low, high, len(own))
    low, high = (float(end) for end in spread.ends())
    return Interval(
        mean,
        low if lowest is None else max(low, lowest),
        high if highest is None else min(high, highest),
        len(own),
    )


def student_interval(values: Sequence[float]) -> Interval | None:
    """Returns mean and Student's t interval over repetitions (seeds); None for fewer than two."""
    own = np.asarray(values, dtype=float)
    if len(own) < 2:
        return None
    from scipy import stats

    half = stats.t.ppf((1 + LEVEL) / 2, len(own) - 1) * own.std(ddof=1) / math.sqrt(len(own))
    return Interval(float(own.mean()), float(own.mean() - half), float(own.mean() + half), len(own))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Returns p-values with Holm's correction (1979); None is kept and not counted."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = highest
    return adjusted


def binomial_ends(
    successes: np.ndarray, trials: np.ndarray, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the exact interval of a share (Clopper and Pearson 1934).

    The numbers of successes and trials need not be integers.
    """
    from scipy import stats

    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(successes <= 0, 0.0, stats.beta.ppf(tail, successes, trials - successes + 1))
        high = np.where(
            successes >= trials, 1.0, stats.beta.ppf(1 - tail, successes + 1, trials - successes)
        )
    return low, high


def share_interval(successes: float, trials: int) -> Interval:
    """Returns a share and its exact interval; raises ValueError if there is no trial."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is not a share; expected at least one trial")
    low, high = binomial_ends(np.asarray(float(successes)), np.asarray(float(trials)))
    return Interval(successes / trials, float(low), float(high), trials)


def binomial_p(successes: np.ndarray, trials: np.ndarray, share: float) -> np.ndarray:
    """Returns twice the smaller tail probability for a true `share`.

    It is below 0.05 exactly if `share` lies outside of `binomial_ends`.
    """
    from scipy import stats

    with np.errstate(invalid="ignore"):
        at_most = np.where(
            successes >= trials, 1.0, stats.beta.sf(share, successes + 1, trials - successes)
        )
        at_least = np.where(
            successes <= 0, 1.0, stats.beta.cdf(share, successes, trials - successes + 1)
        )
    return np.minimum(1.0, 2 * np.minimum(at_most, at_least))
