"""Verdicts on a search, against arithmetic by hand and scipy."""

import numpy as np
import pytest
from scipy import stats

from experiments.results.statistics.rank_correlation import correlation
from experiments.results.verdicts import search_verdicts
from experiments.results.verdicts.search_claims import SearchClaim

NAMES = ("a", "b")


def claim(rule="greater", measure="score", limit=0.0, names=NAMES):
    return SearchClaim("key", "text", rule, "ours", *names, measure=measure, limit=limit)


def rows(c1, c2):
    """Returns the cases of one training from the pancreas Dice of both sites' cases."""
    return [
        {"site": site, "case": n, "score": d, "dice_pancreas": d, "dice_tumour": None}
        for site, dices in (("C1", c1), ("C2", c2))
        for n, d in enumerate(dices, start=1)
    ]


def pair(d1, d2, seeds=(1, 2, 3), jitter=0.002):
    """Returns trainings of a and b that differ by d1 at C1 and d2 at C2, a little by seed and case."""
    first, second = {}, {}
    for seed in seeds:
        shift = jitter * (seed - np.mean(seeds))
        base = [0.5, 0.6, 0.55, 0.62]
        own = [jitter * k for k in (-1, 0, 0.5, 0.5)]
        second[seed] = rows(base, base)
        first[seed] = rows(
            [b + d1 + shift + o for b, o in zip(base, own, strict=True)],
            [b + d2 + shift + o for b, o in zip(base, own, strict=True)],
        )
    return {"a": first, "b": second}


def judged(trainings, tau=None, **about):
    (found,) = search_verdicts.judge_search(trainings, tau, claims=[claim(**about)])
    return found


def test_a_clear_difference_is_supported_and_its_opposite_contradicted():
    found = judged(pair(0.1, 0.1))
    assert found.verdict == "supported" and found.interval.estimate == pytest.approx(10.0)
    assert found.interval.low > 9 and found.p_holm == found.p < 0.05
    assert judged(pair(-0.1, -0.1)).verdict == "contradicted"
    assert judged(pair(-0.1, -0.1), rule="less").verdict == "supported"


def test_a_difference_within_the_spread_of_seeds_is_undecided():
    found = judged(pair(0.01, 0.01, jitter=0.05))
    assert found.verdict == "undecided" and found.interval.low < 0 < found.interval.high
    assert found.detectable > found.interval.estimate


def test_c2_alone_and_c2_minus_c1_by_hand():
    trainings = pair(0.02, 0.08)
    assert judged(trainings, measure="C2_pancreas").interval.estimate == pytest.approx(8.0)
    both = judged(trainings, measure="C2_minus_C1_pancreas")
    assert both.interval.estimate == pytest.approx(6.0)
    assert judged(trainings).interval.estimate == pytest.approx(5.0)  # mean over eight cases


def test_fewer_than_three_seeds_measure_nothing():
    found = judged(pair(0.1, 0.1, seeds=(1, 2)))
    assert found.verdict == "not measured" and "2 seeds" in found.remark
    assert judged({}).verdict == "not measured"


def test_one_network_under_two_names_is_told():
    trainings = pair(0.0, 0.0, jitter=0.0)
    (found,) = search_verdicts.judge_search(
        trainings, None, claims=[claim()], same={"a": "f", "b": "f"}
    )
    assert (found.verdict, found.remark) == ("undecided", "both are one network")


def test_other_cases_are_refused():
    trainings = pair(0.1, 0.1)
    trainings["a"][2] = trainings["a"][2][1:]
    with pytest.raises(ValueError, match="scored on different cases"):
        judged(trainings)


def test_tau_is_judged_by_its_interval():
    first = list(range(10))
    strong = correlation(first, [[x, x + 0.1, x - 0.1] for x in first], seed=1)
    assert judged({}, strong, rule="tau_above").verdict == "supported"
    assert judged({}, strong, rule="tau_below", limit=0.5).verdict == "contradicted"
    rng = np.random.default_rng(5)
    none = correlation(first, rng.normal(size=(10, 3)), seed=1)
    assert judged({}, none, rule="tau_above").verdict == "undecided"
    few = correlation(first[:7], [[x] * 3 for x in first[:7]], seed=1)
    assert judged({}, few, rule="tau_above").verdict == "not measured"
    assert "7 paths" in judged({}, few, rule="tau_above").remark


def test_holm_counts_the_measured_claims():
    tau = correlation(list(range(8)), [[x] * 3 for x in range(8)], seed=1)
    claims = [claim(), claim(rule="tau_above"), claim(names=("x", "y"))]
    found = search_verdicts.judge_search(pair(0.1, 0.1), tau, claims=claims)
    smallest = min(one.p for one in found[:2])
    assert min(one.p_holm for one in found[:2]) == pytest.approx(2 * smallest)
    assert found[2].p_holm is None and found[2].to_json()["verdict"] == "not measured"


def test_noise_floor_is_the_deviation_of_the_means_with_its_chi_square_interval():
    means = [0.50, 0.54, 0.52, 0.49, 0.55, 0.52]
    floor = search_verdicts.noise_floor({s: rows([m], [m]) for s, m in enumerate(means)})
    deviation = 100 * np.std(means, ddof=1)
    assert floor.mean == pytest.approx(52.0) and floor.deviation == pytest.approx(deviation)
    # 5 degrees of freedom: chi-square quantiles 12.83 and 0.831, t 2.571, from printed tables
    assert floor.low == pytest.approx(deviation * np.sqrt(5 / 12.833), rel=1e-3)
    assert floor.high == pytest.approx(deviation * np.sqrt(5 / 0.8312), rel=1e-3)
    assert floor.apart == pytest.approx(2.571 * np.sqrt(2) * deviation, rel=1e-3)
    assert search_verdicts.noise_floor({1: rows([0.5], [0.5])}) is None
    p = stats.chi2.cdf(5 * (floor.deviation / floor.low) ** 2, 5)
    assert p == pytest.approx(0.975)
