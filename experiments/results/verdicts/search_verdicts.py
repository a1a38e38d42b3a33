"""Judges the claims about a search by the rules of `search_claims`: trainings in, verdicts out.

Intervals of comparisons are those of a study whose trainings share their patients: they cover the
variation between patients and between trainings (`patients_and_trainings`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from experiments.results.measures import Unit
from experiments.results.statistics import intervals, patients_and_trainings
from experiments.results.statistics.intervals import LEVEL, Interval
from experiments.results.statistics.rank_correlation import RankCorrelation
from experiments.results.verdicts import patient_groups
from experiments.results.verdicts.claim_verdicts import (
    ALPHA,
    CONTRADICTED,
    NOT_MEASURED,
    SUPPORTED,
    UNDECIDED,
)
from experiments.results.verdicts.patient_groups import Groups
from experiments.results.verdicts.search_claims import (
    C2_MINUS_C1,
    C2_PANCREAS,
    CORRELATED,
    LEAST_PATHS,
    LEAST_SEEDS,
    SCORE,
    SEARCH_CLAIMS,
    SearchClaim,
)

POINTS = 100.0  # Dice is reported in points


class SearchedCase(TypedDict):
    """The scores of one training on one case; None for a class in neither mask."""

    site: str
    case: int
    score: float  # mean Dice of the classes that the label shows
    dice_pancreas: float | None
    dice_tumour: float | None


# network -> seed -> the cases of its training
Trainings = Mapping[str, Mapping[int, Sequence[SearchedCase]]]


@dataclasses.dataclass(frozen=True)
class SearchVerdict:
    """A claim with its numbers; points of Dice for a comparison, tau for a correlation."""

    claim: SearchClaim
    verdict: str
    interval: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    by_seed: Mapping[int, float] = dataclasses.field(default_factory=dict)
    detectable: float | None = None
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self.claim),
            "verdict": self.verdict,
            "interval": None if self.interval is None else dataclasses.asdict(self.interval),
            "p": self.p,
            "p_holm": self.p_holm,
            "by_seed": {str(seed): value for seed, value in self.by_seed.items()},
            "detectable": self.detectable,
            "remark": self.remark,
        }


@dataclasses.dataclass(frozen=True)
class NoiseFloor:
    """How much trainings of one network differ by their seed alone, in points of Dice.

    Attributes:
      deviation: standard deviation of the mean score; low and high are the ends of its 95 %
        interval, by chi-square.
      apart: two single trainings of equally good networks differ by more than this in one case in
        twenty.
    """

    mean: float
    deviation: float
    low: float
    high: float
    apart: float
    seeds: int


def noise_floor(trainings: Mapping[int, Sequence[SearchedCase]]) -> NoiseFloor | None:
    """Returns the noise floor of one network's trainings; None for fewer than two seeds."""
    if len(trainings) < 2:
        return None
    from scipy import stats

    means = [POINTS * mean_score(rows) for rows in trainings.values()]
    freedom, deviation = len(means) - 1, float(np.std(means, ddof=1))
    low, high = (
        deviation * float(np.sqrt(freedom / stats.chi2.ppf(tail, freedom)))
        for tail in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
    )
    t = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    return NoiseFloor(
        float(np.mean(means)), deviation, low, high, t * float(np.sqrt(2)) * deviation, len(means)
    )


def mean_score(rows: Iterable[SearchedCase]) -> float:
    """Returns the mean score over all cases, so that each site counts by its number of cases."""
    return float(np.mean([row["score"] for row in rows]))


def judge_search(
    trainings: Trainings,
    tau: RankCorrelation | None,
    *,
    claims: Sequence[SearchClaim] = SEARCH_CLAIMS,
    same: Mapping[str, str] | None = None,
) -> list[SearchVerdict]:
    """Returns the verdict on each claim, in order.

    Args:
      trainings: scores on test cases; every training of a network has the same cases.
      tau: between the supernet and trainings alone, None if it was not measured.
      same: network -> fingerprint of its genotype, to recognise one network under two names.
    """
    measured = [_measure(claim, trainings, tau, same or {}) for claim in claims]
    adjusted = intervals.holm({str(i): one.p for i, one in enumerate(measured)})
    return [
        dataclasses.replace(one, p_holm=adjusted[str(i)], verdict=_verdict(one, adjusted[str(i)]))
        for i, one in enumerate(measured)
    ]


def _verdict(one: SearchVerdict, p_holm: float | None) -> str:
    if one.interval is None:
        return NOT_MEASURED
    low, high = one.interval.low, one.interval.high
    if low is None or high is None or p_holm is None or not p_holm < ALPHA:
        return UNDECIDED
    if one.claim.rule in ("less", "tau_below"):
        low, high, limit = -high, -low, -one.claim.limit
    else:
        limit = one.claim.limit
    return SUPPORTED if low > limit else CONTRADICTED if high < limit else UNDECIDED


def _measure(
    claim: SearchClaim,
    trainings: Trainings,
    tau: RankCorrelation | None,
    same: Mapping[str, str],
) -> SearchVerdict:
    if claim.rule in CORRELATED:
        return _correlated(claim, tau)
    first, second = trainings.get(claim.first, {}), trainings.get(claim.second, {})
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < LEAST_SEEDS:
        remark = f"{len(seeds)} seeds of both networks; {LEAST_SEEDS} are needed"
        return SearchVerdict(claim, NOT_MEASURED, remark=remark)
    groups = {seed: _differences(claim, first[seed], second[seed]) for seed in seeds}
    by_seed = {seed: patient_groups.estimate(own) for seed, own in groups.items()}
    patients = patient_groups.strata([patient_groups.averaged(list(groups.values()))])
    found = patients_and_trainings.evidence(
        np.array(list(by_seed.values())),
        intervals.combination(patients),
        patients_and_trainings.SAME,
    )
    estimate, cases = float(found.estimate), sum(len(own) for _, own in groups[seeds[0]])
    if not found.has_spread:
        one = same.get(claim.first)
        remark = "both are one network" if one and one == same.get(claim.second) else "no spread"
        interval = Interval(estimate, None, None, cases)
        return SearchVerdict(claim, UNDECIDED, interval, by_seed=by_seed, remark=remark)
    low, high = (float(end) for end in found.ends())
    return SearchVerdict(
        claim,
        UNDECIDED,
        Interval(estimate, low, high, cases),
        float(found.p()),
        by_seed=by_seed,
        detectable=found.detectable(),
    )


def _correlated(claim: SearchClaim, tau: RankCorrelation | None) -> SearchVerdict:
    if tau is None or tau.tau is None or tau.networks < LEAST_PATHS or tau.seeds < LEAST_SEEDS:
        counted = (0, 0) if tau is None else (tau.networks, tau.seeds)
        remark = (
            f"there are {counted[0]} paths with {counted[1]} seeds; this test needs {LEAST_PATHS} "
            f"paths with {LEAST_SEEDS} seeds and with different scores"
        )
        return SearchVerdict(claim, NOT_MEASURED, remark=remark)
    interval = Interval(tau.tau, tau.low, tau.high, tau.networks)
    return SearchVerdict(claim, UNDECIDED, interval, tau.p(claim.limit))


# measure -> (sign, site) of each group of cases; "" stands for all sites
_SITES = {
    SCORE: ((1.0, ""),),
    C2_PANCREAS: ((1.0, "C2"),),
    C2_MINUS_C1: ((1.0, "C2"), (-1.0, "C1")),
}


def _differences(
    claim: SearchClaim, first: Sequence[SearchedCase], second: Sequence[SearchedCase]
) -> Groups:
    column = "score" if claim.measure == SCORE else "dice_pancreas"
    one, two = (_values(rows, column) for rows in (first, second))
    if one.keys() != two.keys():
        raise ValueError(
            f"{claim.key}: the trainings of {claim.first} and {claim.second} were scored on "
            "different cases; score both on the same"
        )
    differences = {patient: POINTS * (one[patient] - two[patient]) for patient in one}
    return [
        (sign, {p: d for p, d in differences.items() if site in ("", p[1])})
        for sign, site in _SITES[claim.measure]
    ]


def _values(rows: Sequence[SearchedCase], column: str) -> dict[Unit, float]:
    """Returns patient -> value; a class in neither mask has none and counts as correct."""
    found: dict[Unit, float] = {}
    for row in rows:
        value = row["score"] if column == "score" else row["dice_pancreas"]
        found["", row["site"], row["case"]] = 1.0 if value is None else value
    return found
