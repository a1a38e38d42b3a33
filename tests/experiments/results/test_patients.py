"""Measures of patients by hand, and their intervals against simulation and other libraries."""

import numpy as np
import pytest
from scipy import stats

from experiments.reports import patients_table
from experiments.results import patients
from experiments.results.measures import Run

KEYS = ("truth_components_tumour", "found_tumour", "false_components_tumour", "score_tumour")


def row(
    case, *, site="C1", model="FL_global", tumours=0, found=0, false=0, score=0.0, grid="training"
):
    marked = found + false
    about = {"model": model, "site": site, "case": case, "grid": grid}
    return about | {
        "truth_ml_tumour": 4.0 * tumours,
        "volume_ml_tumour": 1.0 * marked,
        **dict(zip(KEYS, (tumours, found, false, score), strict=True)),
    }


ROWS = [
    row(1), row(2, false=3, score=2.0), row(3, false=1, score=5.0), row(4),
    row(1, site="C2", tumours=1, found=1, score=9.0), row(2, site="C2", tumours=2, found=1, false=1, score=5.0),
    row(3, site="C2", tumours=1, false=2, score=1.0), row(4, site="C2", tumours=1),
]  # fmt: skip


def test_measures_by_hand():
    found = patients.of_rows(ROWS)["FL_global"]
    estimates = {
        name: (found[name]["estimate"], found[name]["count"]) for name in patients_table.HEADINGS
    }
    assert estimates["sensitivity"] == (
        3 / 4,
        4,
    )  # case 3 is called for the wrong reason, and called
    assert estimates["specificity"] == (2 / 4, 4)
    assert estimates["tumours_found"] == (2 / 5, 5)
    assert estimates["false_alarms"] == (4 / 4, 4)
    # scores 9, 5, 1, 0 against 0, 2, 5, 0: wins 4 + 3.5 + 2 + 1 of 16
    assert estimates["auc"] == (10.5 / 16, 8)
    exact = stats.binomtest(3, 4).proportion_ci(0.95, "exact")
    assert (found["sensitivity"]["low"], found["sensitivity"]["high"]) == pytest.approx(
        (exact.low, exact.high)
    )


def test_the_auc_is_mann_and_whitneys():
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 6, 30), rng.integers(0, 5, 20)
    expected = stats.mannwhitneyu(one, other).statistic / 600
    assert patients.auc(one, other) == pytest.approx(expected)


@pytest.mark.parametrize(("ill", "healthy"), [(7, 6), (21, 18), (100, 84)])
@pytest.mark.parametrize("true", [0.6, 0.8, 0.95])
def test_the_interval_of_the_auc_covers(ill, healthy, true):
    rng, runs = np.random.default_rng(2), 1000
    shift = np.sqrt(2) * stats.norm.ppf(true)  # binormal
    areas = [
        patients.auc(rng.normal(shift, 1, ill), rng.normal(0, 1, healthy)) for _ in range(runs)
    ]
    intervals = {area: patients.auc_interval(area, ill, healthy) for area in set(areas)}
    covered = np.mean([intervals[area].low <= true <= intervals[area].high for area in areas])
    assert covered >= 0.93


@pytest.mark.parametrize(("cohorts", "ill", "healthy"), [(3, 7, 6), (5, 3, 3), (10, 2, 2)])
@pytest.mark.parametrize("true", [0.6, 0.8, 0.95])
def test_the_interval_of_the_auc_covers_over_cohorts_that_are_not_compared(
    cohorts, ill, healthy, true
):
    rng, studies = np.random.default_rng(3), 1000
    one = rng.normal(np.sqrt(2) * stats.norm.ppf(true), 1, (studies, cohorts, ill, 1))
    other = rng.normal(0, 1, (studies, cohorts, 1, healthy))
    areas = (one > other).mean(axis=(1, 2, 3))
    intervals = {
        area: patients.auc_interval(area, cohorts * ill, cohorts * healthy, cohorts=cohorts)
        for area in set(areas)
    }
    covered = np.mean([intervals[area].low <= true <= intervals[area].high for area in areas])
    assert covered >= 0.93


def test_a_perfect_auc_of_few_patients_leaves_room():
    interval = patients.auc_interval(1.0, 7, 6)
    assert interval.high == 1.0 and 0.6 < interval.low < 0.9
    assert patients.auc_interval(0.0, 7, 6).high == pytest.approx(1 - interval.low)


def test_the_free_response_curve_ends_at_the_mask_as_it_is():
    curve = patients.of_rows(ROWS)["FL_global"]["froc"]
    steps = [(point["threshold"], point["false_alarms"], point["found"]) for point in curve]
    # patients above 9: none; above 5: the one of 9; above 2: those of 9, 5 and 5; above 1: also 2;
    # above 0: also 1
    assert steps == [
        (9.0, 0.0, 0.0),
        (5.0, 0.0, 1 / 5),
        (2.0, 2 / 8, 2 / 5),
        (1.0, 5 / 8, 2 / 5),
        (0.0, 7 / 8, 2 / 5),
    ]
    exact = stats.binomtest(2, 5).proportion_ci(0.95, "exact")
    assert (curve[-1]["low"], curve[-1]["high"]) == pytest.approx((exact.low, exact.high))


def test_rows_of_an_earlier_release_say_what_they_can():
    earlier = [{key: value for key, value in line.items() if key not in KEYS} for line in ROWS]
    found = patients.of_rows(earlier)["FL_global"]
    assert found["sensitivity"]["estimate"] == 3 / 4 and found["specificity"]["estimate"] == 2 / 4
    assert (
        found["auc"] is found["tumours_found"] is found["false_alarms"] is None
        and found["froc"] == []
    )
    assert (
        "| FL_global | 3 of 4, 75 % [19, 99] | 2 of 4, 50 % [7, 93] | – | – | – |"
        in patients_table.markdown({"FL_global": found})
    )


def test_patients_of_two_cohorts_are_added_and_those_of_one_count_once():
    better = [dict(line, volume_ml_tumour=0.0) if line["site"] == "C1" else line for line in ROWS]
    apart = patients.of_runs([Run(1, "seed 1", ROWS), Run(1, "seed 2", better)])["FL_global"]
    same = patients.of_runs([Run(1, "real", ROWS), Run(1, "real", better)])["FL_global"]
    assert (apart["specificity"]["estimate"], apart["specificity"]["count"]) == (6 / 8, 8)
    assert (same["specificity"]["estimate"], same["specificity"]["count"]) == (3 / 4, 4)
    assert (
        same["specificity"]["high"] - same["specificity"]["low"]
        > apart["specificity"]["high"] - apart["specificity"]["low"]
    )


def test_the_auc_compares_patients_of_one_training_only():
    shifted = [dict(line, score_tumour=line["score_tumour"] + 100.0) for line in ROWS]
    found = patients.of_runs([Run(1, "a", ROWS), Run(1, "b", shifted)])["FL_global"]["auc"]
    assert found["estimate"] == pytest.approx(10.5 / 16) and found["count"] == 16
    same = patients.of_runs([Run(1, "a", ROWS), Run(1, "a", shifted)])["FL_global"]["auc"]
    alone = patients.of_rows(ROWS)["FL_global"]["auc"]
    # Patients of another cohort are new ones, and those of the same cohort are not.
    assert (same["low"], same["high"], same["count"]) == (alone["low"], alone["high"], 8)
    # Two independent areas: half the variance of one (Newcombe 2006, where the bound solves this).
    for end in (found["low"], found["high"]):
        spread = 1 + 3.0 * ((1 - end) / (2 - end) + end / (1 + end))
        variance = end * (1 - end) / 16 * spread / 2
        assert abs(found["estimate"] - end) == pytest.approx(1.959964 * np.sqrt(variance))


def test_a_model_without_healthy_patients_or_without_tumours_has_what_remains():
    ill = patients.of_rows([line for line in ROWS if line["site"] == "C2"])["FL_global"]
    assert (
        ill["specificity"] is ill["auc"] is ill["false_alarms"] is None
        and ill["tumours_found"]["count"] == 5
    )
    healthy = patients.of_rows([line for line in ROWS if line["site"] == "C1"])["FL_global"]
    assert (
        healthy["sensitivity"] is healthy["auc"] is healthy["tumours_found"] is None
        and healthy["froc"] == []
    )


@pytest.mark.parametrize("trainings", [2, 3, 7])
def test_the_curve_counts_a_tumour_once_in_however_many_trainings_it_is_looked_for(trainings):
    """The same patients in more trainings are no more patients, so the curve stays as it is."""
    alone = patients.of_rows(ROWS)["FL_global"]
    runs = [Run(seed, "real", ROWS) for seed in range(trainings)]
    found = patients.of_runs(runs)["FL_global"]
    assert [list(point) for point in found["froc"]] == [list(point) for point in alone["froc"]]
    for one, other in zip(found["froc"], alone["froc"], strict=True):
        assert one == pytest.approx(other)
    ends = ("low", "high")
    assert [found["froc"][-1][end] for end in ends] == pytest.approx(
        [found["tumours_found"][end] for end in ends]
    )
    apart = patients.of_runs([Run(seed, f"seed {seed}", ROWS) for seed in range(trainings)])
    exact = stats.binomtest(2 * trainings, 5 * trainings).proportion_ci(0.95, "exact")
    assert apart["FL_global"]["froc"][-1]["low"] == pytest.approx(exact.low)
