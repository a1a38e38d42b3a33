import copy
import json
import math

import numpy as np
import pytest

from preprocessing.checks import cohort, cohort_counts
from preprocessing.checks.cohort_counts import SCALES
from tests.preprocessing.checks.test_cohort import finding


def written(findings, labels=None):
    return json.loads(json.dumps(cohort.summarise("C1", findings, labels=labels), allow_nan=False))


def counts(findings, labels=None):
    return cohort_counts.of_report(written(findings, labels))


def given(found, quantity):
    return {name: one.given for name, one in found.of_cases[quantity].items()}


def test_counts_by_hand():
    # scans of 350 x 280 x 200 mm
    found = counts([finding(i, pancreas_ml=85.0 + i) for i in range(4)])
    assert (found.cases, found.without_label, found.labelled) == (4, 0, 4)
    assert given(found, "spacing_mm") == {"x": {6: 3}, "y": {6: 3}, "z": {9: 3}}
    assert given(found, "extent_mm") == {"x": {7: 3}, "y": {5: 3}, "z": {4: 3}}
    assert given(found, "volume_ml") == {"pancreas": {4: 3}}
    assert given(found, "median_hu") == {"pancreas": {30: 3}}  # 100 to 110 HU
    assert found.hu["pancreas"].given == {30: sum(round(1000 * (85 + i) / 0.49) for i in range(4))}
    assert found.having("pancreas") == 3 and found.having("tumour") == 0
    assert (
        cohort_counts.mean(found.of_cases["volume_ml"]["pancreas"], SCALES["volume_ml"].centre)
        == 90
    )


def test_what_is_written_is_what_is_read():
    found = [finding(i, tumour_ml=9.0 + i if i % 2 else None) for i in range(9)]
    measured = [(f.facts, True) for f in found]
    labels = {"pancreas": "complete", "tumour": "complete"}
    assert counts(found, labels) == cohort_counts.of_site("C1", measured, labels)


def test_a_declaration_comes_along():
    labels = {"pancreas": "complete", "tumour": "unlabelled"}
    found = counts([finding(i) for i in range(3)], labels)
    assert found.unlabelled("tumour") and not found.unlabelled("pancreas")
    assert not counts([finding(i) for i in range(3)]).unlabelled("tumour")


def changed(report, place, value):
    report = copy.deepcopy(report)
    part = report
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return report


FOUR = {axis: {"total": 6, "bins": {"5": 3, "05": 3}} for axis in "xyz"}


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("spacing_mm",), {"x": 1}, "counts that are not on the scale"),
        (("spacing_mm",), FOUR, "counts that are not on the scale"),
        (("spacing_mm", "x"), None, "spacing_mm along x is given for too few cases, or missing"),
        (("extent_mm", "z", "total"), 9, "extent_mm along z is given for 9 of 6 cases"),
        (("extent_mm", "z", "bins"), {"4": 4}, "not groups of three"),
        (("cases",), None, "NoneType"),
        (("cases", "usable"), 7, "spacing_mm along x is given for 6 of 7 cases"),
        (("cases", "usable"), True, "usable is 'True'; expected a number of cases"),
        (("cases", "usable"), 10**400, "usable is '1000"),
        (("cases", "without_label"), 2, "without_label is 2; expected whole groups"),
        (("cases", "without_label"), 6, "6 of 0 labelled cases have pancreas"),
        (("cases", "without_label"), 9, "9 of 6 cases have no label"),
        (("cases", "with_tumour"), 6, "6 cases with tumour, but 3 volumes"),
        (("axes",), {"LPS": 9}, "the axes of 9 files, but has 6 cases"),
        (("axes",), {"LPS": 2}, "axes is 2; expected whole groups"),
        (("median_hu", "pancreas", "total"), 9, "volumes and HU of pancreas come from different"),
        (("hu",), {"tumour": None}, "volumes and HU of pancreas come from different"),
        (("hu", "pancreas", "bins"), {"30": 5}, "below 10"),
        (("hu", "pancreas", "total"), math.nan, "counts that are not on the scale"),
        (("hu", "pancreas", "total"), 10**400, "counts that are not on the scale"),
        (("labels",), {"pancreas": "perhaps"}, "declared_labels"),
    ],
)
def test_what_another_site_wrote_is_checked(place, value, words):
    report = written([finding(i, tumour_ml=8.0 if i < 3 else None) for i in range(6)])
    cohort_counts.of_report(report)
    with pytest.raises(ValueError, match=f"^site C1: .*{words}"):
        cohort_counts.of_report(changed(report, place, value))


@pytest.mark.parametrize("voxels", [10**12, 10**8, 40])
def test_voxels_that_do_not_fit_volumes_and_spacing_are_refused(voxels):
    report = written([finding(i) for i in range(12)])
    report["hu"]["pancreas"] = {"total": voxels, "bins": {"7": voxels}}
    with pytest.raises(
        ValueError,
        match=rf"site C1: {voxels} voxels of pancreas; .* of its 12 cases give 2e\+06 to 2.4e\+06",
    ):
        cohort_counts.of_report(report)


def test_voxels_of_cases_that_are_in_no_bin_are_bounded_too():
    found = [
        finding(i, spacing=(0.5 + 0.1 * i, 0.5 + 0.1 * i, 1.0), pancreas_ml=30.0 + 30 * i)
        for i in range(4)
    ]
    report = written(found)
    assert not report["volume_ml"]["pancreas"]["bins"]
    cohort_counts.of_report(report)
    report["hu"]["pancreas"] = {"total": 10**9, "bins": {"7": 10**9}}
    with pytest.raises(ValueError, match="1000000000 voxels of pancreas"):
        cohort_counts.of_report(report)


@pytest.mark.parametrize("seed", range(6))
def test_voxels_of_sites_with_all_kinds_of_scans_pass(seed):
    """From thin slices of photon-counting CT to 5 mm, tumours of 0.1 ml, huge organs."""
    rng = np.random.default_rng(seed)
    for _ in range(15):
        z_mm = rng.choice([0.4, 1.0, 2.5, 5.0], int(rng.integers(1, 4)))
        found = [
            finding(
                i,
                spacing=(*[float(rng.uniform(0.4, 0.98))] * 2, float(rng.choice(z_mm))),
                pancreas_ml=float(np.exp(rng.normal(4.3, 0.5))),
                tumour_ml=float(np.exp(rng.normal(1.5, 1.8))) if rng.random() < 0.5 else None,
            )
            for i in range(rng.integers(3, 40))
        ]
        counts(found)


def test_a_given_bin_of_the_report_always_has_three_patients():
    rng = np.random.default_rng(5)
    for _ in range(30):
        spacings = rng.choice([0.6, 0.7, 0.8, 0.9], rng.integers(3, 12))
        found = counts([finding(i, spacing=(mm, 0.7, 1.0)) for i, mm in enumerate(spacings)])
        told = found.of_cases["spacing_mm"]["x"].given
        for number in range(SCALES["spacing_mm"].bins):
            there = np.isclose(spacings, SCALES["spacing_mm"].centre(number)).sum()
            assert told.get(number, 0) == there // 3 * 3
