import itertools

import numpy as np
import pytest
from scipy import stats

from experiments import statistics


def test_wilcoxon_by_counting_every_sign_pattern():
    differences = [1.0, -2.0, 3.0, 4.0, 5.0]
    # ranks 1..5, positive ones sum to 13; of the 32 equally likely sign patterns those with a sum of 13 or more count
    sums = [sum(rank for rank, sign in zip(range(1, 6), signs, strict=True) if sign) for signs in itertools.product((0, 1), repeat=5)]
    expected = sum(s >= 13 for s in sums) / 32
    assert statistics.wilcoxon(differences) == pytest.approx(expected)
    assert statistics.wilcoxon(differences, "less") == pytest.approx(sum(s <= 13 for s in sums) / 32)


def test_wilcoxon_passes_over_ties_at_zero_and_says_nothing_of_nothing():
    assert statistics.wilcoxon([0.0, 0.0, 0.0]) is None
    with_zeros = statistics.wilcoxon([0.0, 1.0, 2.0, 3.0, -4.0, 5.0, 6.5], "two-sided")
    assert with_zeros == pytest.approx(
        stats.wilcoxon([1.0, 2.0, 3.0, -4.0, 5.0, 6.5], alternative="two-sided", method="approx").pvalue, abs=0.1
    )


def test_holm_by_hand():
    # ascending 0.01 x 4 = 0.04; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.4 x 1 = 0.4; the one without a test counts not
    adjusted = statistics.holm({"c": 0.03, "a": 0.01, "none": None, "d": 0.4, "b": 0.02})
    assert adjusted == {"c": pytest.approx(0.06), "a": pytest.approx(0.04), "none": None, "d": pytest.approx(0.4), "b": pytest.approx(0.06)}
    # a later one is never below an earlier one: 0.01 x 2 = 0.02, then 0.011
    assert statistics.holm({"a": 0.01, "b": 0.011}) == {"a": pytest.approx(0.02), "b": pytest.approx(0.02)}
    assert statistics.holm({"a": 0.9, "b": 0.8})["b"] == 1.0


def test_students_interval_by_hand():
    interval = statistics.student_interval([70.0, 72.0, 77.0])
    # mean 73; deviations -3, -1, 4: variance 26/2 = 13; t(0.975, 2) = 4.30265
    half = 4.30265273 * (13 / 3) ** 0.5
    assert (interval.estimate, interval.count) == (73.0, 3)
    assert (interval.low, interval.high) == (pytest.approx(73 - half), pytest.approx(73 + half))
    assert statistics.student_interval([70.0]) is None


def test_the_bootstrap_agrees_with_scipys_and_repeats_itself():
    values = np.random.default_rng(4).gamma(2.0, 3.0, 40)
    ours = statistics.bootstrap_mean(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", random_state=1).confidence_interval
    assert ours.estimate == pytest.approx(values.mean())
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, rel=0.02), pytest.approx(theirs.high, rel=0.02))
    assert statistics.bootstrap_mean(values) == ours
    assert statistics.bootstrap_mean([3.0, 3.0]) == statistics.Interval(3.0, 3.0, 3.0, 2)


def test_strata_are_resampled_within_themselves():
    # two groups without any spread inside: their sizes are fixed, so the mean cannot move
    interval = statistics.bootstrap_mean([1.0, 1.0, 5.0], ["a", "a", "b"])
    assert interval.estimate == interval.low == interval.high == pytest.approx(7 / 3)
    with pytest.raises(ValueError, match="2 values and 1 strata"):
        statistics.bootstrap_mean([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="no value"):
        statistics.bootstrap_mean([])


def test_a_difference_of_two_groups():
    rng = np.random.default_rng(2)
    first, second = rng.normal(5, 1, 60), rng.normal(3, 2, 50)
    interval = statistics.bootstrap_difference(first, second)
    half = 1.96 * (first.var() / 60 + second.var() / 50) ** 0.5
    assert interval.estimate == pytest.approx(first.mean() - second.mean())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.06)
    assert statistics.mann_whitney([4, 5, 6], [1, 2, 3]) == pytest.approx(1 / 20)  # one of the 20 ways to choose three of six


def test_a_share_and_its_exact_interval():
    # Clopper and Pearson: 0 of 10 has the upper end 1 - 0.025 ** (1/10)
    none = statistics.binomial_interval(0, 10)
    assert (none.estimate, none.low, none.high) == (0.0, 0.0, pytest.approx(1 - 0.025**0.1))
    every = statistics.binomial_interval(10, 10)
    assert (every.low, every.high) == (pytest.approx(0.025**0.1), 1.0)
    some = statistics.binomial_interval(3, 8)
    exact = stats.binomtest(3, 8).proportion_ci(method="exact")
    assert (some.low, some.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    with pytest.raises(ValueError, match="3 of 2"):
        statistics.binomial_interval(3, 2)
