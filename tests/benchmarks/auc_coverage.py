"""How often the interval of an attack's AUC contains the true value, in simulated studies.

    .venv/py3.11/bin/python -m tests.benchmarks.auc_coverage

Scores of members and of 100 non-members per site are drawn from two normals of one variance, two
normals of which the members' is narrower, or two exponentials; the true area is a closed form.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import stats

from experiments.results.statistics import membership_rates
from experiments.results.statistics.membership_rates import Stratum

STUDIES, OTHERS = 500, 100
SCORES = ("normal", "narrow", "exponential")
AREAS = (0.5, 0.8, 0.96, 0.99)
MEMBERS = ((7,), (4,) * 6, (7,) * 6, (14,) * 6)  # of each site and seed


def stratum(scores: str, area: float, members: int, rng: np.random.Generator) -> Stratum:
    """Draws scores of which a member's is the larger with a probability of `area`."""
    if scores == "exponential":  # of means r and 1: r / (r + 1)
        mean = area / (1 - area)
        return Stratum(rng.exponential(mean, members), rng.exponential(1.0, OTHERS))
    spread = 0.5 if scores == "narrow" else 1.0
    distance = stats.norm.ppf(area) * math.hypot(1.0, spread)
    return Stratum(rng.normal(distance, spread, members), rng.normal(0.0, 1.0, OTHERS))


def coverage(scores, area, members, *, studies=STUDIES, seed=1):
    """Returns the share of studies whose interval contains the true area."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(studies):
        found = membership_rates.area([stratum(scores, area, count, rng) for count in members])
        hits += found.low <= area <= found.high
    return hits / studies


if __name__ == "__main__":
    print("| members | scores | " + " | ".join(f"AUC {area}" for area in AREAS) + " |")
    print("|---|---|" + "---:|" * len(AREAS))
    for members, scores in itertools.product(MEMBERS, SCORES):
        found = (100 * coverage(scores, area, members) for area in AREAS)
        cells = " | ".join(f"{value:.1f} %" for value in found)
        print(f"| {len(members)} x {members[0]} | {scores} | {cells} |", flush=True)
