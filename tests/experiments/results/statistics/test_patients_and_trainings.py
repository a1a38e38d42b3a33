import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.results.statistics import intervals, patients_and_trainings
from experiments.results.statistics.patients_and_trainings import OWN, SAME
from tests.benchmarks import verdict_rates

REPETITIONS = 4000
ALLOWED = (
    0.05 + 2 * (0.05 * 0.95 / REPETITIONS) ** 0.5
)  # 5 % and what chance adds to so many repetitions


@pytest.mark.parametrize("design", [OWN, SAME])
@pytest.mark.parametrize("training_sd", [0.0, 3.0, 8.0])
def test_at_most_one_in_twenty_null_comparisons_gets_a_verdict(design, training_sd):
    for trainings, patient_sd, sizes, shape in itertools.product(
        (3, 5), (10.0, 20.0), ((6,), (6, 7)), ("normal", "lumped")
    ):
        found = verdict_rates.study(
            -3.0, training_sd=training_sd, patient_sd=patient_sd, trainings=trainings, sizes=sizes, design=design, shape=shape,
            repetitions=REPETITIONS,
        )  # fmt: skip
        above, below = verdict_rates.verdicts(found, null=-3.0)  # a loss of exactly the margin
        assert above + below <= ALLOWED, (trainings, patient_sd, sizes, shape)


@pytest.mark.parametrize("design", [OWN, SAME])
@pytest.mark.parametrize("training_sd", [0.0, 0.03, 0.08])
def test_at_most_one_in_twenty_shares_at_the_limit_gets_a_verdict(design, training_sd):
    for trainings, patients in itertools.product((3, 5), (6, 7)):
        found = verdict_rates.shares(
            0.05,
            training_sd=training_sd,
            trainings=trainings,
            patients=patients,
            design=design,
            repetitions=REPETITIONS,
        )
        assert (found.p(0.05) < 0.05).mean() <= 0.05


def test_means_of_trainings_alone_are_students_t():
    values = np.array([4.0, 9.0, 5.0])
    found = patients_and_trainings.evidence(values, None, OWN)
    theirs = stats.ttest_1samp(values, 1.0)
    assert [float(end) for end in found.ends()] == [
        pytest.approx(end) for end in theirs.confidence_interval()
    ]
    assert float(found.p(1.0)) == pytest.approx(theirs.pvalue)


def test_trainings_that_agree_by_luck_do_not_hide_their_patients():
    patients = intervals.combination([(1.0, np.array([-20.0, -5.0, 5.0, 20.0]))])
    found = patients_and_trainings.evidence(np.array([-0.1, 0.0, 0.1]), patients, OWN)
    assert [float(end) for end in found.ends()] == [
        pytest.approx(float(end)) for end in patients.ends()
    ]
    assert float(found.p(1.0)) == pytest.approx(float(patients.p(1.0)))
    assert found.detectable() == pytest.approx(patients.detectable())


def test_variances_add_where_the_patients_are_the_same():
    patients = intervals.combination(
        [(1.0, np.array([-3.0, -1.0, 0.0, 1.0, 3.0]))]
    )  # variance 5, of the mean 1
    found = patients_and_trainings.evidence(
        np.array([-1.0, 0.0, 1.0]), patients, SAME
    )  # variance 1, of the mean 1/3
    (part,) = found.parts
    assert float(part.error) ** 2 == pytest.approx(1 + 1 / 3)
    assert float(part.freedom) == pytest.approx((4 / 3) ** 2 / (1 / 4 + (1 / 3) ** 2 / 2))


def test_a_share_is_worth_fewer_patients_where_trainings_differ():
    ratio = (stats.t.ppf(0.975, 17) / stats.t.ppf(0.975, 2)) ** 2
    even = patients_and_trainings.share(np.array([0.5, 0.5, 0.5]), 18, OWN)
    assert float(even.effective) == pytest.approx(18 * ratio)
    # shares 0, 1/2, 1: variance of their mean 1/12, of 18 patients alone 1/72
    uneven = patients_and_trainings.share(np.array([0.0, 0.5, 1.0]), 18, OWN)
    assert float(uneven.effective) == pytest.approx(18 * ratio / 6)
    low, high = even.ends()
    assert (
        low < 0.5 < high
        and high - low > np.diff(intervals.binomial_ends(np.array(9.0), np.array(18.0)))[0]
    )
