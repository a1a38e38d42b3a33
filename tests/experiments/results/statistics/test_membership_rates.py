import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from experiments.results.statistics import membership_rates
from experiments.results.statistics.membership_rates import Stratum
from tests.benchmarks import auc_coverage


def test_area_of_a_few_scores_by_hand():
    # Pairs won by the members: 3 > 1, 3 > 2, 2 > 1, and half for 2 = 2: 3.5 of 4.
    one = Stratum(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    assert membership_rates.area([one]).estimate == 3.5 / 4


def test_area_is_the_mann_whitney_statistic_with_ties():
    rng = np.random.default_rng(1)
    one = Stratum(rng.integers(0, 6, 17).astype(float), rng.integers(0, 5, 120).astype(float))
    u = stats.mannwhitneyu(one.members, one.others).statistic
    assert membership_rates.area([one]).estimate == pytest.approx(u / (17 * 120), rel=1e-12)


def test_area_of_two_normals_is_the_closed_form():
    rng = np.random.default_rng(2)
    for distance in (0.0, 0.5, 1.5):
        one = Stratum(rng.normal(distance, 1, 4000), rng.normal(0, 1, 4000))
        found = membership_rates.area([one])
        assert found.estimate == pytest.approx(stats.norm.cdf(distance / math.sqrt(2)), abs=0.02)
        assert found.low < found.estimate < found.high < found.low + 0.03


def test_variance_is_delongs_by_a_loop():
    rng = np.random.default_rng(3)
    one = Stratum(rng.normal(0.7, 1, 40), rng.normal(0, 1, 300))
    wins = np.array([[float(m > o) for o in one.others] for m in one.members])
    error = math.sqrt(np.var(wins.mean(1), ddof=1) / 40 + np.var(wins.mean(0), ddof=1) / 300)
    found = membership_rates.area([one])
    # Undo the logarithm of the odds, whose derivative is 1 / (area * (1 - area)).
    low, high = special.logit([found.low, found.high])
    half = (high - low) / 2 * found.estimate * (1 - found.estimate)
    assert special.expit((low + high) / 2) == pytest.approx(found.estimate)
    # Student's quantile of about 45 degrees of freedom, and a little more for the skewness.
    assert 1.96 * error < half < 2.3 * error


@pytest.mark.parametrize("scores", auc_coverage.SCORES)
@pytest.mark.parametrize("area", auc_coverage.AREAS)
@pytest.mark.parametrize("members", [(7,), (7, 7)])
def test_the_interval_covers_the_closed_form_also_for_few_members_and_large_areas(
    members, area, scores
):
    # 93 % less the noise of 250 studies
    assert auc_coverage.coverage(scores, area, members, studies=250) > 0.91


def test_strata_are_averaged_and_each_site_has_its_own_scale():
    near = Stratum(np.array([1.0, 3.0]), np.array([0.0, 2.0]))  # wins 1, 2 of 2: area 3/4
    far = Stratum(np.array([101.0, 102.0, 103.0, 104.0]), np.array([200.0, 100.0]))  # 1/2 each
    assert membership_rates.area([near, far]).estimate == pytest.approx((2 * 0.75 + 4 * 0.5) / 6)


def test_an_area_of_one_is_not_certain():
    found = membership_rates.area([Stratum(np.array([5.0, 6.0, 7.0]), np.arange(4.0))])
    assert found.estimate == found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 3))  # what three unseen scans could do


def test_true_positives_at_one_per_cent_by_hand():
    others = np.arange(200.0)  # at most 2 of 200 above: the third largest, 197, is the threshold
    assert membership_rates.threshold(others) == 197.0
    one = Stratum(np.array([197.0, 197.5, 198.0, 50.0]), others)
    found = membership_rates.found([one])
    exact = stats.binomtest(2, 4).proportion_ci(method="exact")
    assert (found.estimate, found.count) == (0.5, 4)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("count", [100, 137, 1000])
def test_no_more_than_one_per_cent_of_the_non_members_are_accused(count):
    rng = np.random.default_rng(count)
    for others in (rng.normal(size=count), rng.integers(0, 3, count).astype(float)):
        assert (others > membership_rates.threshold(others)).sum() <= 0.01 * count


def test_one_per_cent_of_fewer_than_a_hundred_means_nothing():
    one = Stratum(np.array([1.0]), np.arange(99.0))
    assert membership_rates.FEWEST == 100
    assert membership_rates.found([one]) is None and membership_rates.summary([one])["tpr"] is None
    assert membership_rates.found([Stratum(np.array([1e9]), np.arange(100.0))]).estimate == 1.0


def test_the_curve_has_the_area():
    rng = np.random.default_rng(4)
    one = Stratum(rng.integers(0, 9, 30).astype(float), rng.integers(0, 7, 150).astype(float))
    accused, caught = membership_rates.curve(one)
    assert (accused[0], caught[0], accused[-1], caught[-1]) == (0, 0, 1, 1)
    area = integrate.trapezoid(caught, accused)
    assert area == pytest.approx(membership_rates.area([one]).estimate)


def test_attacks_by_hand():
    losses = {"model": np.array([0.5, 1.0]), "received": np.array([0.75, 0.5])}
    np.testing.assert_array_equal(membership_rates.scores("loss", losses), [-0.5, -1.0])
    np.testing.assert_array_equal(membership_rates.scores("update", losses), [0.25, -0.5])
    references = [np.array([1.0, 1.0]), np.array([0.5, 2.0])]
    np.testing.assert_array_equal(
        membership_rates.scores("calibrated", losses, references), [0.25, 0.5]
    )


def test_the_calibrated_attack_orders_scans_as_the_likelihood_ratio_of_one_variance():
    """Offline LiRA: the probability that a model without the scan has a larger loss."""
    rng = np.random.default_rng(5)
    loss, references = rng.normal(size=50), rng.normal(size=(4, 50))
    ratio = stats.norm.cdf((references.mean(0) - loss) / 0.37)
    own = membership_rates.scores("calibrated", {"model": loss}, list(references))
    np.testing.assert_array_equal(np.argsort(own), np.argsort(ratio))


@pytest.mark.parametrize(
    ("attack", "match"),
    [("calibrated", "no reference model"), ("update", "received"), ("guess", "attack is 'guess'")],
)
def test_an_attack_that_lacks_something_says_what(attack, match):
    with pytest.raises(ValueError, match=match):
        membership_rates.scores(attack, {"model": np.ones(2)})


@pytest.mark.parametrize("bad", [[], [np.nan], [[1.0]]])
def test_scores_that_are_not_a_list_of_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="members: expected a list of finite scores"):
        Stratum(np.array(bad), np.ones(3))


def test_an_attack_counts_as_found_if_its_interval_is_above_guessing():
    assert membership_rates.verdict({"low": 0.51}) == "found"
    assert (
        membership_rates.verdict({"low": 0.5})
        == membership_rates.verdict({"low": None})
        == "not found"
    )


@pytest.mark.parametrize(("others", "chance"), [(100, 2 / 101), (199, 2 / 200), (200, 3 / 201)])
def test_what_guessing_finds_at_one_per_cent_by_enumeration(others, chance):
    """A scan like the others takes each of the n + 1 ranks with the same chance."""
    hits = [
        membership_rates.found([Stratum(np.array([rank - 0.5]), np.arange(float(others)))]).estimate
        for rank in range(others + 1)
    ]
    assert np.mean(hits) == pytest.approx(chance)
    share = membership_rates.FALSE_POSITIVES
    assert chance == pytest.approx((math.floor(share * others) + 1) / (others + 1))
