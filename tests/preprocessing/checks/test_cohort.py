import itertools
import json
import pathlib

import numpy as np
import pytest

from preprocessing import rules
from preprocessing.checks import cohort
from preprocessing.checks.survey import HU_EDGES, CheckFinding, Facts
from preprocessing.manifest import Case


def finding(
    number, *, spacing=(0.7, 0.7, 1.0), pancreas_ml=80.0, tumour_ml=None, hu=100, problems=()
):
    volumes = {1: pancreas_ml} | ({2: tumour_ml} if tumour_ml else {})
    counts = tuple(100 if low <= hu < low + 10 else 0 for low in HU_EDGES[:-1])
    facts = Facts(
        (500, 400, 200),
        spacing,
        "LPS",
        volumes,
        dict.fromkeys(volumes, counts),
        dict.fromkeys(volumes, float(hu)),
    )
    case = Case(
        f"DOE_JANE_{number}",
        pathlib.Path(f"/hospital/{number}.nii.gz"),
        pathlib.Path(f"/hospital/l{number}.nii.gz"),
    )
    return CheckFinding(
        case, tuple(problems), facts, np.zeros((4, 4, 3), np.uint8), ("mark",), "digest"
    )


def test_numbers_by_hand():
    volumes = [61.0, 83.0, 72.0, 95.0, 118.0, 100.0]
    report = cohort.summarise(
        "C1",
        [
            finding(i, pancreas_ml=v, spacing=(0.6 + 0.1 * i, 0.7, 1.0))
            for i, v in enumerate(volumes)
        ],
        {"training": 3, "validation": 1, "test": 2},
    )
    assert report["cases"] == {
        "listed": 6,
        "usable": 6,
        "refused": 0,
        "without_label": 0,
        "with_tumour": 0,
    }
    assert report["spacing_mm"]["x"] == {"lowest": 0.6, "median": 0.85, "highest": 1.1}
    assert report["extent_mm"]["y"]["median"] == pytest.approx(280)
    told = report["volume_ml"]["pancreas"]
    # each percentile is the mean of the lowest or of the highest three cases
    lowest, highest = (61 + 72 + 83) / 3, (95 + 100 + 118) / 3
    assert (told["p5"], told["median"], told["p95"]) == (
        lowest,
        lowest,
        pytest.approx(highest, rel=1e-3),
    )
    assert told["mean"] == pytest.approx(88.17)
    assert report["hu"]["pancreas"]["median"] == pytest.approx(
        105
    )  # all voxels lie in the bin from 100 to 110
    share = report["hu"]["pancreas"]["histogram"]["share"]
    assert [(n, value) for n, value in enumerate(share) if value] == [(30, 1.0)]
    assert report["splits"] == {"training": 3, "validation": 1, "test": 2}


def test_a_report_shows_nothing_of_a_single_patient():
    volumes = [61.37, 62.11, 63.73, 64.19, 118.53]
    report = cohort.summarise("C1", [finding(i, pancreas_ml=v) for i, v in enumerate(volumes)])
    text = json.dumps(report, allow_nan=False)
    assert not [word for word in ("DOE", "hospital", "nii", "mark", "digest") if word in text]
    assert not [v for v in volumes if str(v) in text or f"{v:.4g}" in text]
    counts = report["volume_ml"]["pancreas"]["histogram"]["cases"]
    # nor the four others, which would show by subtraction that one lies elsewhere
    assert counts == [None] * 20


@pytest.mark.parametrize("count", range(3, 61))
def test_no_combination_of_the_numbers_tells_of_one_or_two_patients(count):
    """Every number is a weighted sum of the sorted values.

    If the values of two patients are removed, the sums must stay independent; otherwise a
    combination of them would depend on these two alone.
    """
    steps = [
        cohort._percentiles([0.0] * low + [1.0] * (count - low)) for low in range(count, -1, -1)
    ]
    names = ("mean", "p5", "p25", "median", "p75", "p95")
    told = np.array([[step[name] for name in names] for step in steps])
    weights = np.diff(told, axis=0)[::-1].T  # [numbers, sorted patients]
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-3)
    rank = np.linalg.matrix_rank(weights, tol=0.01)
    for pair in itertools.combinations(range(count), 2):
        assert np.linalg.matrix_rank(np.delete(weights, pair, axis=1), tol=0.01) == rank


def test_percentiles_of_many_patients_are_of_the_three_around_them():
    told = cohort._percentiles(list(range(1, 42)))
    assert [told[name] for name in ("p5", "p25", "median", "p75", "p95")] == [3, 11, 21, 31, 39]


def test_three_sizes_do_not_follow_from_mean_and_standard_deviation():
    assert [cohort._percentiles([90, 150, 240, 33, 60][:n])["sd"] is None for n in (3, 4, 5)] == [
        True,
        True,
        False,
    ]


def test_an_empty_bin_of_volumes_cannot_be_told_from_one_of_two_patients():
    """Wherever the withheld patients are, the histogram is the same."""
    seen = {
        str(
            cohort.summarise(
                "C1", [finding(i, pancreas_ml=v) for i, v in enumerate([81.0] * 4 + list(others))]
            )["volume_ml"]["pancreas"]["histogram"]["cases"]
        )
        for others in itertools.combinations([11.0, 12.0, 35.0, 36.0, 120.0, 190.0], 3)
    }
    (counts,) = seen
    assert counts == str([4 if n == 8 else None for n in range(20)])


def test_percentiles_of_voxels_do_not_tell_where_the_withheld_ones_are():
    def told(odd):
        found = [finding(i, hu=100) for i in range(4)] + [finding(9 + n, hu=v) for n, v in odd]
        value = cohort.summarise("C1", found)["hu"]["pancreas"]
        return {name: value[name] for name in ("p5", "p25", "median", "p75", "p95")}

    low, high = (told(list(enumerate(hu))) for hu in ([-150, -100, -50], [-150, 250, 350]))
    assert low == high and 100 <= low["p5"] < low["p95"] <= 110


def test_voxels_that_are_all_withheld_have_no_percentiles():
    report = cohort.summarise("C1", [finding(i, hu=40 * i) for i in range(4)])
    assert "median" not in report["hu"]["pancreas"]
    rows = {row[0]: row[1] for row in cohort.rows(report)}
    assert rows["pancreas, HU of voxels: median (5 - 95 %)"] == "-"
    assert cohort.differences(report, {**report, "site": "C2"}) == []


def test_two_cases_are_too_few():
    report = cohort.summarise(
        "C1", [finding(i, tumour_ml=20.0 if i < 2 else None) for i in range(4)]
    )
    assert set(report["volume_ml"]) == {"pancreas"} and report["cases"]["with_tumour"] == 2
    assert cohort.summarise("C1", [finding(1), finding(2)])["volume_ml"] == {}


def test_refused_cases_are_counted_and_not_measured():
    bad = finding(
        9,
        pancreas_ml=1000.0,
        problems=[rules.broken(rules.EMPTY, "/hospital/l9.nii.gz", "no voxel is labelled")],
    )
    report = cohort.summarise("C1", [*(finding(i) for i in range(3)), bad])
    assert (
        report["cases"]["refused"] == 1
        and report["rules"] == {"L03": 1}
        and report["volume_ml"]["pancreas"]["mean"] == 80
    )


def test_two_sites_side_by_side():
    one = cohort.summarise("C1", [finding(i) for i in range(4)])
    other = cohort.summarise(
        "C2", [finding(i, spacing=(0.7, 0.7, 5.0), tumour_ml=25.0, hu=80) for i in range(3)]
    )
    rows = {row[0]: row[1:] for row in cohort.rows(one, other)}
    assert rows["cases usable"] == ["4", "3"]
    assert rows["spacing z, mm: median (range)"] == ["1 (1 - 1)", "5 (5 - 5)"]
    assert rows["tumour, ml: median (5 - 95 %)"] == ["-", "25 (25 - 25)"]
    found = "\n".join(cohort.differences(one, other))
    assert (
        "spacing along z: 1 mm at C1, 5 mm at C2" in found
        and "pancreas HU: 100 at C1, 80 at C2" in found
        and "tumour is labelled at C2 only" in found
    )
    assert cohort.differences(one, {**one, "site": "C3"}) == []


def test_an_empty_site_has_a_report():
    report = cohort.summarise("C1", [])
    assert report["spacing_mm"]["x"] is None and [len(row) for row in cohort.rows(report)] == [
        2
    ] * len(cohort.rows(report))


def test_two_reports_subtracted_tell_of_the_one_patient_between_them():
    before, after = (
        json.loads(json.dumps(cohort.summarise("C1", [finding(i) for i in range(count)])))
        for count in (4, 5)
    )
    # this is what the warning is about, and no rule on one report alone can prevent it
    shown = [report["sums"]["labelled"]["pancreas"]["ml"] for report in (before, after)]
    assert shown[1] - shown[0] == 80.0
    warning = cohort.told_by_difference(before, after)
    assert "of 5 usable cases, replaces a different one, of 4. Anyone with both" in warning
    exchanged = cohort.summarise("C1", [finding(i, pancreas_ml=70.0 + i) for i in range(5)])
    assert "of 5 usable cases, replaces a different one, of 5" in cohort.told_by_difference(
        after, exchanged
    )
    assert cohort.told_by_difference(after, {**after, "splits": {"training": 5}}) == ""
    for other in (None, [], {}, {"cases": 3}, "x"):
        assert cohort.told_by_difference(other, after) == ""
