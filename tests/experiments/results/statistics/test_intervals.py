import numpy as np
import pytest
from scipy import stats

from experiments.results.statistics import intervals
from tests.benchmarks import verdict_rates


def test_holm_by_hand():
    # ascending 0.01 x 4 = 0.04; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.4 x 1 = 0.4; the one without a
    # test counts not
    adjusted = intervals.holm({"c": 0.03, "a": 0.01, "none": None, "d": 0.4, "b": 0.02})
    assert adjusted == {
        "c": pytest.approx(0.06),
        "a": pytest.approx(0.04),
        "none": None,
        "d": pytest.approx(0.4),
        "b": pytest.approx(0.06),
    }
    # a later one is never below an earlier one: 0.01 x 2 = 0.02, then 0.011
    assert intervals.holm({"a": 0.01, "b": 0.011}) == {
        "a": pytest.approx(0.02),
        "b": pytest.approx(0.02),
    }
    assert intervals.holm({"a": 0.9, "b": 0.8})["b"] == 1.0


def test_students_interval_by_hand():
    interval = intervals.student_interval([70.0, 72.0, 77.0])
    # mean 73; deviations -3, -1, 4: variance 26/2 = 13; t(0.975, 2) = 4.30265
    half = 4.30265273 * (13 / 3) ** 0.5
    assert (interval.estimate, interval.count) == (73.0, 3)
    assert (interval.low, interval.high) == (pytest.approx(73 - half), pytest.approx(73 + half))
    assert intervals.student_interval([70.0]) is None


@pytest.mark.parametrize("strata", ["6", "13", "6 + 7", "39", "3 x (6 + 7)"])
@pytest.mark.parametrize("name", list(verdict_rates.DISTRIBUTIONS))
def test_the_interval_of_a_mean_covers(name, strata):
    draw, truth = verdict_rates.DISTRIBUTIONS[name]
    coverage, _ = verdict_rates.mean_coverage(
        draw, truth, verdict_rates.STRATA[strata], repetitions=10_000
    )
    assert coverage >= 0.93


def test_the_interval_of_symmetric_values_is_students_and_that_of_one_group_scipys():
    values = [-3.0, -1.0, 0.0, 1.0, 3.0]  # no skewness: nothing is added
    interval = intervals.mean_interval(values)
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert (interval.low, interval.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    skewed = intervals.mean_interval([*values, 20.0])
    theirs = stats.ttest_1samp([*values, 20.0], 0.0).confidence_interval()
    assert (
        skewed.low < theirs.low and skewed.high - theirs.high > 1.9 * (theirs.low - skewed.low) > 0
    )  # twice as much on the long side


def test_a_difference_of_two_groups_is_welchs():
    first, second = np.array([1.0, 2.0, 3.0]), np.array([-8.0, -2.0, 0.0, 2.0, 8.0])
    mean = intervals.combination([(1.0, first), (-1.0, second)])
    theirs = stats.ttest_ind(first, second, equal_var=False)
    low, high = theirs.confidence_interval()
    assert [float(end) for end in mean.ends()] == [pytest.approx(low), pytest.approx(high)]
    assert float(mean.p()) == pytest.approx(theirs.pvalue) and float(mean.freedom) == pytest.approx(
        theirs.df
    )


def test_strata_have_their_own_means_and_one_value_takes_the_others_spread():
    # two groups without any spread inside: their sizes are fixed, so the mean cannot move, and how
    # far it could is not known
    interval = intervals.mean_interval([1.0, 1.0, 5.0, 5.0], ["a", "a", "b", "b"])
    assert interval == intervals.Interval(3.0, None, None, 4)
    # variance 2 in "a", taken by "b" too: (2/3)^2 * 2/2 + (1/3)^2 * 2 with one degree of freedom
    # each
    mean = intervals.combination([(2 / 3, np.array([1.0, 3.0])), (1 / 3, np.array([9.0]))])
    assert float(mean.error) ** 2 == pytest.approx(4 / 9 + 2 / 9) and float(
        mean.freedom
    ) == pytest.approx((6 / 9) ** 2 / (16 / 81 + 4 / 81))
    assert (
        intervals.mean_interval([1.0, 2.0], ["a", "b"]).low is not None
    )  # groups of one each: one group
    with pytest.raises(ValueError, match="2 values and 1 strata"):
        intervals.mean_interval([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="no value"):
        intervals.mean_interval([])


def test_bounds_hold_and_say_what_unseen_cases_could_do():
    assert intervals.mean_interval([0.9, 1.0, 1.0], bounds=(0.0, 1.0)).high == 1.0
    # six zeros: the exact upper end of a share of which none was seen
    zeros = intervals.mean_interval([0.0] * 6, bounds=(0.0, 1.0))
    assert (zeros.low, zeros.high) == (
        0.0,
        pytest.approx(stats.binomtest(0, 6).proportion_ci(method="exact").high),
    )
    one = intervals.mean_interval([0.8], bounds=(0.0, None))
    assert (one.low, one.high) == (pytest.approx(0.8 * 0.025), None)


@pytest.mark.parametrize("name", list(verdict_rates.DISTRIBUTIONS))
def test_the_test_and_the_interval_are_one(name):
    draw, truth = verdict_rates.DISTRIBUTIONS[name]
    mean = intervals.combination([(0.5, draw(np.random.default_rng(5), (2000, n))) for n in (6, 7)])
    low, high = mean.ends()
    outside = (truth < low) | (high < truth)
    assert np.array_equal(mean.p(truth) < 0.05, outside & (mean.error > 0)) and outside.any()


def test_what_a_study_can_show_is_what_the_t_test_finds_in_four_of_five():
    mean = intervals.combination([(1.0, np.array([-3.0, -1.0, 0.0, 1.0, 3.0]))])
    shift = mean.detectable()
    noncentral = stats.nct(4, shift / float(mean.error))
    wall = stats.t.ppf(0.975, 4)
    assert noncentral.sf(wall) == pytest.approx(0.8, abs=0.003)
    assert mean.detectable(level=0.99) > shift


def test_a_share_and_its_exact_interval():
    # Clopper and Pearson: 0 of 10 has the upper end 1 - 0.025 ** (1/10)
    low, high = intervals.binomial_ends(np.array([0.0, 10.0, 3.0]), np.array([10.0, 10.0, 8.0]))
    assert (low[0], high[0]) == (0.0, pytest.approx(1 - 0.025**0.1)) and (low[1], high[1]) == (
        pytest.approx(0.025**0.1),
        1.0,
    )
    exact = stats.binomtest(3, 8).proportion_ci(method="exact")
    assert (low[2], high[2]) == (pytest.approx(exact.low), pytest.approx(exact.high))
    # at an end of the interval p is what the interval leaves out
    assert intervals.binomial_p(np.array([3.0]), np.array([8.0]), float(low[2])) == pytest.approx(
        0.05
    )
    assert intervals.binomial_p(np.array([3.0]), np.array([8.0]), float(high[2])) == pytest.approx(
        0.05
    )


@pytest.mark.parametrize("values", [[0.3] * 3, [0.1 + 0.2, 0.3, 0.3], [0.7 - 0.4, 0.3, 0.1 * 3]])
def test_numbers_that_differ_by_rounding_alone_show_no_spread(values):
    """Else the interval has no width, and any difference from them is certain."""
    interval = intervals.mean_interval(values, bounds=(0.0, 1.0))
    unseen = 1 - 0.025 ** (1 / 3)
    assert interval.low == pytest.approx(0.3 * (1 - unseen))
    assert interval.high == pytest.approx(0.3 + unseen * 0.7)
    assert intervals.combination([(1.0, np.array(values))]).p(0.0) == 1.0
