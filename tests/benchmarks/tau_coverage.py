"""How often the interval of Kendall's tau contains the true value, in simulated studies.

python -m tests.benchmarks.tau_coverage

Scores of a supernet and expected scores of trainings are normal with a correlation; each training
adds its own noise. Tau of the population follows from the correlation: 2 / pi * arcsin(r).
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from experiments.results.statistics import rank_correlation

STUDIES, RESAMPLES = 400, 800


def coverage(networks, seeds, correlation, noise, *, studies=STUDIES, seed=1):
    """Returns the share of studies whose interval contains the tau of their population."""
    rng = np.random.default_rng(seed)
    seen = correlation / math.sqrt(1 + noise**2 / seeds)
    truth = 2 / math.pi * math.asin(seen)
    hits = 0
    for number in range(studies):
        first, other = rng.normal(size=(2, networks))
        expected = correlation * first + math.sqrt(1 - correlation**2) * other
        alone = expected[:, None] + noise * rng.normal(size=(networks, seeds))
        found = rank_correlation.correlation(first, alone, seed=number, resamples=RESAMPLES)
        hits += found.low <= truth <= found.high
    return hits / studies


if __name__ == "__main__":
    print("| networks | correlation | noise of a training | contains the truth |")
    print("|---:|---:|---:|---:|")
    for networks, r, noise in itertools.product((8, 12), (0.0, 0.5, 0.9), (0.3, 1.0)):
        print(f"| {networks} | {r} | {noise} | {100 * coverage(networks, 3, r, noise):.1f} % |")
