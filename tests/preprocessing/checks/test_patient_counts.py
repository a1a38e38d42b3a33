import itertools

import numpy as np
import pytest

from preprocessing.checks import patient_counts
from preprocessing.checks.patient_counts import Counts, Scale

TENTHS = Scale(0.05, 0.1, 100)


def test_bins_by_hand():
    assert TENTHS.numbers([0.1, 0.74, 0.76, 5.0, 0.0, 99.0]).tolist() == [0, 6, 7, 49, 0, 99]
    assert (TENTHS.low(6), TENTHS.centre(6), TENTHS.high(6)) == (0.65, 0.7, 0.75)


def test_patients_are_counted_in_whole_groups_of_three():
    scale = Scale(0, 10, 6)
    # 4 patients, 3, 2, none, 8, none
    values = [1] * 4 + [11] * 3 + [21] * 2 + [41] * 8
    counts = patient_counts.of_values(scale, values, 17)
    assert counts == Counts({0: 3, 1: 3, 4: 6}, 17)
    assert (counts.placed, counts.withheld) == (12, 5)
    assert patient_counts.of_values(scale, [1, 11, 21], 3) == Counts({}, 3)
    assert patient_counts.of_values(scale, [1, 11], 2) is None
    assert patient_counts.of_values(scale, [], 0) is None
    assert [patient_counts.whole_groups(n) for n in (0, 2, 3, 18, 20)] == [0, 0, 3, 18, 18]


@pytest.mark.parametrize("patients", range(3, 8))
def test_no_reader_can_be_sure_of_one_or_two_patients_in_any_bins(patients):
    """Goes through all arrangements of the patients that have the same counts."""
    scale, alike = Scale(0, 1, 5), {}
    for values in itertools.combinations_with_replacement(range(scale.bins), patients):
        counts = patient_counts.of_values(scale, values, patients)
        alike.setdefault(str(counts), []).append(np.bincount(values, minlength=scale.bins))
    for arrangements in alike.values():
        for size in range(1, scale.bins):
            for bins in itertools.combinations(range(scale.bins), size):
                inside = {int(found[list(bins)].sum()) for found in arrangements}
                assert not inside <= {1, 2}


def test_voxels_count_for_the_patients_that_have_them():
    voxels = np.array([[900, 1, 0], [800, 0, 0], [700, 0, 0], [600, 3, 0], [500, 9, 7]])
    # the second bin has three patients, the third one patient with seven voxels, which is hidden
    # behind the second
    assert patient_counts.of_voxels(voxels) == Counts({0: 3500}, 3520)
    # three patients with one voxel each: that each has one is not told
    assert patient_counts.of_voxels(np.array([[9, 1, 4]] * 3)) == Counts({0: 27}, 42)
    assert patient_counts.of_voxels(np.array([[1, 1]] * 3)) is None


def test_no_voxels_of_a_patient_follow_from_the_counts():
    """Goes through all small voxel counts of three patients that have the same report."""
    alike, of_patient = {}, list(itertools.product(range(9), range(3)))
    for patients in itertools.combinations_with_replacement(of_patient, 3):
        voxels = np.array(patients)
        if voxels.sum() <= 11:  # more have few solutions among so small counts
            counts = patient_counts.of_voxels(voxels)
            alike.setdefault(str(counts), []).append(np.sort(voxels, axis=0))
    assert len(alike) > 2
    for found in map(np.array, alike.values()):
        empty = ~found.any(axis=(0, 1))  # nobody has voxels there, which is of all three patients
        assert ((np.ptp(found, axis=0) > 0) | empty).all()


@pytest.mark.parametrize("seed", range(20))
def test_no_voxels_that_are_given_can_be_of_fewer_than_three_patients(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        patients, bins = rng.integers(0, 30), int(rng.integers(1, 12))
        contributions = rng.poisson(rng.uniform(0.02, 2), (patients, bins)) * rng.integers(1, 50)
        counts = patient_counts.of_voxels(contributions)
        inside = contributions > 0
        if counts is None:
            assert inside.any(axis=1).sum() < 3 or contributions.sum() < 10
            continue
        for number, count in counts.given.items():
            assert inside[:, number].sum() >= 3 and count == contributions[:, number].sum() >= 10
        hidden = [n for n in range(bins) if n not in counts.given]
        assert inside[:, hidden].any(axis=1).sum() not in (1, 2)
        assert counts.withheld == contributions[:, hidden].sum()
        assert counts.withheld == 0 or counts.withheld >= 10


@pytest.mark.parametrize("seed", range(30))
def test_quantiles_of_the_sites_counts_hold_those_of_the_pooled_values(seed):
    rng = np.random.default_rng(100 + seed)
    scale = Scale(0, 1, int(rng.integers(2, 15)))
    sites = [
        rng.normal(rng.uniform(2, 8), rng.uniform(0.1, 3), rng.integers(3, 60))
        for _ in range(rng.integers(1, 6))
    ]
    given = [patient_counts.of_values(scale, values, len(values)) for values in sites]
    pooled = np.clip(np.floor(np.concatenate(sites)), 0, scale.bins - 1)
    if not any(counts.given for counts in given):
        return
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
    # three that are in no bin move the median of another site no further than its next bin
    assert patient_counts.quantile([counts, Counts({}, 3)], 500, scale) == (2, 0, 4)


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
@pytest.mark.parametrize("read", [patient_counts.groups_from_json, patient_counts.voxels_from_json])
def test_counts_of_a_foreign_report_are_checked(value, read):
    with pytest.raises(ValueError, match="not on the scale of 100 bins"):
        read(value, TENTHS)


def test_other_counts_than_the_rule_gives_are_refused():
    four = {"total": 20, "bins": {"1": 4, "2": 3}}
    with pytest.raises(ValueError, match=r"counts \[4, 3\] are not groups of three"):
        patient_counts.groups_from_json(four, TENTHS)
    with pytest.raises(ValueError, match="below 10"):
        patient_counts.voxels_from_json({"total": 20, "bins": {"1": 9}}, TENTHS)


def test_counts_come_back_from_json():
    counts = patient_counts.of_values(TENTHS, [0.7] * 4 + [0.9] * 3, 7)
    assert patient_counts.groups_from_json(counts.to_json(), TENTHS) == counts
    assert patient_counts.groups_from_json(None, TENTHS) is None
    voxels = Counts({1: 13}, 25)
    assert patient_counts.voxels_from_json(voxels.to_json(), TENTHS) == voxels
