import itertools

import numpy as np
import pytest

from preprocessing.checks import patient_counts
from preprocessing.checks.patient_counts import Counts, Scale

TENTHS = Scale(0.05, 0.1, 100)


def test_bins_by_hand():
    assert TENTHS.numbers([0.1, 0.74, 0.76, 5.0, 0.0, 99.0]).tolist() == [0, 6, 7, 49, 0, 99]
    assert (TENTHS.low(6), TENTHS.centre(6), TENTHS.high(6)) == (0.65, 0.7, 0.75)


def test_a_bin_of_two_patients_is_withheld_with_another_one_so_that_the_rest_is_of_three():
    scale = Scale(0, 10, 6)
    # 4 patients, 3, 2, none, 5, none: the two alone would be the total minus the others
    counts = patient_counts.of_values(scale, [1] * 4 + [11] * 3 + [21] * 2 + [41] * 5)
    assert counts == Counts({0: 4, 4: 5}, 14) and counts.withheld == 5
    # two single patients in two bins and one more in a third are three
    counts = patient_counts.of_values(scale, [1] * 4 + [11, 21, 31])
    assert counts == Counts({0: 4}, 7) and counts.withheld == 3
    assert patient_counts.of_values(scale, [1, 11]) is None
    assert patient_counts.of_values(scale, []) is None


def test_voxels_count_for_the_patients_that_have_them():
    voxels = np.array([[900, 1, 0], [800, 0, 0], [700, 0, 0], [600, 3, 0], [500, 1, 7]])
    # the second bin has three patients, the third one patient with seven voxels, which is hidden
    # behind the second
    assert patient_counts.of_patients(voxels) == Counts({0: 3500}, 3512)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_is_given_can_be_of_fewer_than_three_patients(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        patients, bins = rng.integers(0, 30), int(rng.integers(1, 12))
        contributions = rng.poisson(rng.uniform(0.02, 2), (patients, bins)) * rng.integers(1, 50)
        counts = patient_counts.of_patients(contributions)
        inside = contributions > 0
        if counts is None:
            assert inside.any(axis=1).sum() < 3
            continue
        for number, count in counts.given.items():
            assert inside[:, number].sum() >= 3 and count == contributions[:, number].sum()
        hidden = [n for n in range(bins) if n not in counts.given]
        assert inside[:, hidden].any(axis=1).sum() not in (1, 2)
        assert counts.withheld == contributions[:, hidden].sum()


def test_an_empty_bin_cannot_be_told_from_one_of_two_patients():
    """Any arrangement of the withheld patients over the withheld bins gives the same counts."""
    scale = Scale(0, 1, 5)
    seen = {
        str(patient_counts.of_values(scale, [0] * 4 + list(others)))
        for others in itertools.combinations_with_replacement([1, 2, 3, 4], 3)
        if max(others.count(bin_) for bin_ in others) < 3
    }
    assert len(seen) == 1


@pytest.mark.parametrize("seed", range(30))
def test_quantiles_of_the_sites_counts_hold_those_of_the_pooled_values(seed):
    rng = np.random.default_rng(100 + seed)
    scale = Scale(0, 1, int(rng.integers(2, 15)))
    sites = [
        rng.normal(rng.uniform(2, 8), rng.uniform(0.1, 3), rng.integers(3, 60))
        for _ in range(rng.integers(1, 6))
    ]
    given = [patient_counts.of_values(scale, values) for values in sites]
    pooled = np.clip(np.floor(np.concatenate(sites)), 0, scale.bins - 1)
    for per_mille in (5, 100, 500, 995):
        likely, low, high = patient_counts.quantile(given, per_mille, scale)
        expected = np.percentile(pooled, per_mille / 10, method="inverted_cdf")
        assert low <= expected <= high and low <= likely <= high
        if not any(counts.withheld for counts in given):
            assert likely == low == high == expected


def test_bounds_by_hand():
    scale = Scale(0, 1, 5)
    # sorted: 2 2 2 2 and three anywhere but in bin 2: the median is 2 wherever they are,
    # the 10th percentile is not
    counts = Counts({2: 4}, 7)
    assert patient_counts.quantile([counts], 500, scale) == (2, 2, 2)
    assert patient_counts.quantile([counts], 100, scale) == (2, 0, 2)
    assert patient_counts.quantile([counts], 995, scale) == (2, 2, 4)
    # nothing given: the middle
    assert patient_counts.quantile([Counts({}, 3)], 500, scale) == (2, 0, 4)


@pytest.mark.parametrize(
    "value",
    [
        7,
        {"total": 3},
        {"total": "3", "bins": {}},
        {"total": 3, "bins": {"1": 4}},
        {"total": 3, "bins": {"100": 3}},
        {"total": 3, "bins": {"-1": 3}},
        {"total": 3, "bins": {"1": -3}},
        {"total": 3, "bins": {"1": 1.5}},
        {"total": True, "bins": {}},
        {"total": 0, "bins": {}},
        {"total": 9, "bins": {"1": 2}},
        {"total": 9, "bins": {"1": 3, "01": 3}},
        {"total": 10**400, "bins": {}},
    ],
)
def test_counts_of_a_foreign_report_are_checked(value):
    with pytest.raises(ValueError, match="not on the scale of 100 bins"):
        patient_counts.from_json(value, TENTHS)


def test_counts_come_back_from_json():
    counts = patient_counts.of_values(TENTHS, [0.7] * 4 + [0.9] * 3)
    assert patient_counts.from_json(counts.to_json(), TENTHS) == counts
    assert patient_counts.from_json(None, TENTHS) is None
