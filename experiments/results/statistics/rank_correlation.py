"""Kendall's tau between two scores of the same networks, with an interval over networks and seeds.

Tau compares the number of pairs of networks that the two scores order alike with the number that
they order differently (tau-b, which leaves out ties). The interval is the percentile bootstrap:
networks are drawn with replacement, and for each draw also its trainings. Two draws of one network
are not a pair. In simulated studies of 8 and of 12 networks with three trainings, the interval
contained the true tau in 95 to 99 % (`python -m tests.benchmarks.tau_coverage`), because a mean
over three drawn trainings varies more than a mean over three trainings.

The first score is taken as fixed: covering the training of the supernet would need several of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.results.statistics.intervals import LEVEL
from runkit import randomness

RESAMPLES = 4000


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau and its bootstrap.

    Attributes:
      tau: Kendall's tau, with the trainings of each network averaged; None if one score does not
        distinguish the networks at all.
      low, high: ends of the 95 % interval.
      draws: float [resamples], tau of each draw that has one.
      networks, seeds: their numbers.
    """

    tau: float | None
    low: float | None
    high: float | None
    draws: np.ndarray
    networks: int
    seeds: int

    def p(self, limit: float) -> float:
        """Returns the two-sided p-value for a tau of `limit`: twice the smaller share beyond it.

        It is below 0.05 only if `limit` lies outside the interval or at its end.
        """
        count = len(self.draws)
        below, above = (self.draws <= limit).sum(), (self.draws >= limit).sum()
        return float(min(1.0, 2 * (min(below, above) + 1) / (count + 1)))


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Returns Kendall's tau-b; None if all values of one score are equal.

    Raises:
      ValueError: if the lengths differ or there are fewer than two values.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape or one.ndim != 1 or len(one) < 2:
        raise ValueError(
            f"scores of shapes {one.shape} and {two.shape}; expected two lists of at least two"
        )
    tau = float(_taus(one[None], two[None], np.arange(len(one))[None])[0])
    return None if np.isnan(tau) else tau


def correlation(
    first: Sequence[float],
    trainings: Sequence[Sequence[float]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> RankCorrelation:
    """Returns Kendall's tau between `first` and the means of `trainings`, with its interval.

    Args:
      first: one score per network.
      trainings: for each network the scores of its trainings, one per seed.
      seed: seed of the bootstrap.
      resamples: number of draws.
    Raises:
      ValueError: for fewer than two networks, or networks with different numbers of trainings.
    """
    one = np.asarray(first, dtype=float)
    counts = {len(scores) for scores in trainings}
    if len(trainings) != len(one) or len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"{len(one)} scores, and {len(trainings)} networks with {sorted(counts)} trainings; "
            "expected the same number of trainings for each network, at least one"
        )
    alone = np.asarray(trainings, dtype=float)
    tau = kendall(first, list(alone.mean(axis=1)))
    rng = randomness.generator(seed, "bootstrap of tau")
    networks, seeds = alone.shape
    drawn = rng.integers(networks, size=(resamples, networks))
    which = rng.integers(seeds, size=(resamples, networks, seeds))
    means = alone[drawn[..., None], which].mean(axis=-1)
    taus = _taus(one[drawn], means, drawn)
    draws = taus[~np.isnan(taus)]
    if tau is None or not len(draws):
        return RankCorrelation(None, None, None, draws, networks, seeds)
    low, high = (float(end) for end in np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return RankCorrelation(tau, low, high, draws, networks, seeds)


def _taus(first: np.ndarray, second: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns tau-b of each row over the pairs of different networks; NaN without an order.

    Args:
      first, second: float [rows, n].
      drawn: int [rows, n], the network of each value.
    """
    i, j = np.triu_indices(first.shape[1], 1)
    apart = drawn[:, i] != drawn[:, j]
    one = np.sign(first[:, i] - first[:, j]) * apart
    two = np.sign(second[:, i] - second[:, j]) * apart
    scale = np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (one * two).sum(axis=1) / scale, np.nan)
