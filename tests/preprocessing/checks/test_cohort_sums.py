import json
import math

import numpy as np
import pytest

from preprocessing.checks import cohort, cohort_sums
from preprocessing.checks.cohort_sums import ClassSum
from tests.preprocessing.checks.test_cohort import finding


def sums(findings, labels=None):
    report = cohort.summarise("C1", findings, labels=labels)
    assert report["format"] == 2
    return cohort_sums.of_report(json.loads(json.dumps(report, allow_nan=False)))


def test_sums_by_hand():
    # scans of 350 x 280 x 200 mm
    scan_ml = 0.7 * 500 * 0.7 * 400 * 1.0 * 200 / 1000
    found = sums([finding(i, pancreas_ml=80.0 + i) for i in range(4)])
    assert found.cases == 4 and found.scan_ml == pytest.approx(4 * scan_ml, rel=1e-5)
    assert [counts.given for counts in found.spacing_mm] == [{6: 4}, {6: 4}, {9: 4}]
    assert [counts.given for counts in found.extent_mm] == [{7: 4}, {5: 4}, {4: 4}]
    assert found.hu[1].given == {30: 400} and 2 not in found.hu  # 100 to 110 HU
    assert found.labelled[1].ml == 80 + 81 + 82 + 83
    assert found.labelled[1].share == pytest.approx(326 / scan_ml, rel=1e-5)
    assert found.labelled[1].share == float(f"{326 / scan_ml:.6g}")  # no digit more
    assert found.labelled[2] == ClassSum(4, 0.0, 0.0)


def test_tumours_of_two_patients_are_in_no_sum():
    found = sums([finding(i, tumour_ml=20.5 if i < 2 else None) for i in range(6)])
    assert found.labelled[2] is None and found.hu[2] is None
    # The pancreas of the same patients is told for itself, so no difference shows the tumours.
    assert found.labelled[1].cases == 6 and found.hu[1].total == 600


def test_two_cases_give_nothing():
    found = sums([finding(1), finding(2)])
    assert (*found.spacing_mm, *found.extent_mm, found.scan_ml) == (None,) * 7
    assert found.hu == {1: None} and found.labelled == {1: None, 2: None}


def test_shares_of_bins_with_few_patients_are_left_out_of_the_report():
    findings = [finding(i, hu=100) for i in range(5)] + [finding(9, hu=-150)]
    (share,) = [cohort.summarise("C1", findings)["hu"]["pancreas"]["histogram"]["share"]]
    assert share[30] is None and share[5] is None  # one patient is not shown by the difference
    findings += [finding(10 + i, hu=-150) for i in range(2)]
    share = cohort.summarise("C1", findings)["hu"]["pancreas"]["histogram"]["share"]
    assert (share[30], share[5]) == (0.625, 0.375) and share.count(None) == len(share) - 2


def test_a_declaration_comes_along():
    labels = {"pancreas": "complete", "tumour": "unlabelled"}
    found = sums([finding(i) for i in range(3)], labels)
    assert found.unlabelled(2) and not found.unlabelled(1)
    assert not sums([finding(i) for i in range(3)]).unlabelled(2)


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": {"x": 1}},
        {"scan_ml": -1.0},
        {"scan_ml": "much"},
        {"hu": {"pancreas": {"total": 1, "bins": {"0": 2}}}},
        {"labelled": {"pancreas": {"cases": 2, "ml": 1.0, "share": 0.1}}},
        {"labelled": {"pancreas": {"cases": 3, "ml": math.inf, "share": 0.1}}},
        {"labels": {"pancreas": "perhaps"}},
        {"cases": None},
        {"cases": 4},
        {"cases": True},
        {"cases": 3.0},
        {"cases": -3},
        {"cases": 10**400},
        {"scan_ml": 10**400},
        {"scan_ml": math.nan},
        {"scan_ml": None},
        {"extent_mm": {"x": None, "y": None, "z": None}},
        {"spacing_mm": {axis: {"total": 6, "bins": {"5": 3, "05": 3}} for axis in "xyz"}},
        {"hu": {"pancreas": {"total": 10**400, "bins": {}}}},
        {"labelled": {"pancreas": {"cases": 4, "ml": 1.0, "share": 0.1}, "tumour": None}},
        {"labelled": {"pancreas": {"cases": 3, "ml": 1e9, "share": 0.1}, "tumour": None}},
        {"labelled": {"pancreas": {"cases": 3, "ml": 1.0, "share": 3.1}, "tumour": None}},
    ],
)
def test_what_another_site_wrote_is_checked(change):
    report = cohort.summarise("C2", [finding(i) for i in range(3)])
    changed = {**report, "sums": {**report["sums"], **change}}
    with pytest.raises(ValueError, match="report of site C2: its `sums` cannot be read"):
        cohort_sums.of_report(changed)


def test_a_report_of_an_earlier_release_says_what_is_missing():
    report = {**cohort.summarise("C2", [finding(i) for i in range(3)]), "format": 1}
    del report["sums"]
    with pytest.raises(ValueError, match=r"site C2 has format 1, which holds no sums .* again"):
        cohort_sums.of_report(report)


def test_a_given_bin_of_the_report_always_has_three_patients():
    rng = np.random.default_rng(5)
    for _ in range(30):
        spacings = rng.choice([0.6, 0.7, 0.8, 0.9], rng.integers(3, 12))
        found = sums([finding(i, spacing=(mm, 0.7, 1.0)) for i, mm in enumerate(spacings)])
        for number, count in found.spacing_mm[0].given.items():
            expected = np.isclose(spacings, cohort_sums.SPACING_MM.centre(number)).sum()
            assert count == expected >= 3
