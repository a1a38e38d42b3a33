import itertools
import json
import pathlib

import numpy as np
import pytest

from preprocessing import rules
from preprocessing.case_list import Case
from preprocessing.checks import cohort
from preprocessing.checks.survey import HU_EDGES, CheckFinding, Facts


def finding(
    number,
    *,
    shape=(500, 400, 200),
    spacing=(0.7, 0.7, 1.0),
    pancreas_ml=80.0,
    tumour_ml=None,
    hu=100,
    axes="LPS",
    problems=(),
):
    volumes = {1: pancreas_ml} | ({2: tumour_ml} if tumour_ml else {})
    counts = {
        class_: tuple(
            round(1000 * ml / np.prod(spacing)) if low <= hu < low + 10 else 0
            for low in HU_EDGES[:-1]
        )
        for class_, ml in volumes.items()
    }
    facts = Facts(shape, spacing, axes, volumes, counts, dict.fromkeys(volumes, float(hu)))
    case = Case(
        f"DOE_JANE_{number}",
        pathlib.Path(f"/hospital/{number}.nii.gz"),
        pathlib.Path(f"/hospital/l{number}.nii.gz"),
    )
    return CheckFinding(
        case, tuple(problems), facts, np.zeros((4, 4, 3), np.uint8), ("mark",), "digest"
    )


def summary(**values):
    """The report of a site whose cases differ in the given properties, as JSON text."""
    names = list(values)
    findings = [
        finding(i, **dict(zip(names, one, strict=True)))
        for i, one in enumerate(zip(*values.values(), strict=True))
    ]
    return json.dumps(cohort.summarise("C1", findings), allow_nan=False)


def test_numbers_by_hand():
    volumes = [61.0, 83.0, 72.0, 95.0, 78.0, 100.0, 75.0]
    report = cohort.summarise(
        "C1",
        [
            finding(i, pancreas_ml=v, spacing=(0.82 if i > 3 else 0.7, 0.7, 1.0))
            for i, v in enumerate(volumes)
        ],
        {"training": 3, "validation": 1, "test": 2},
    )
    assert report["cases"] == {"usable": 7, "refused": 0, "without_label": 0, "with_tumour": 0}
    assert report["splits"] == {"training": 3, "validation": 1, "test": 2}
    assert report["axes"] == {"LPS": 6}
    # four of 0.7 mm and three of 0.82 mm
    assert report["spacing_mm"]["x"] == {"total": 7, "bins": {"6": 3, "7": 3}}
    # 350 and 410 mm
    assert report["extent_mm"]["x"] == {"total": 7, "bins": {"7": 3, "8": 3}}
    # 60 to 80 ml: four; 80 to 100 ml: two; one beyond
    assert report["volume_ml"] == {"pancreas": {"total": 6, "bins": {"3": 3}}}
    voxels = sum(
        round(v / 0.49 / (1 if i < 4 else 0.82 / 0.7) * 1000) for i, v in enumerate(volumes)
    )
    assert report["hu"]["pancreas"]["bins"]["30"] == pytest.approx(voxels, abs=7)
    rows = {row[0]: row[1] for row in cohort.rows(report)}
    assert rows["spacing x, mm: median (5 - 95 %)"] == "0.65 - 0.75 (0.65 - 0.85), 6 of 7"
    assert rows["pancreas, ml: median (5 - 95 %)"] == "60 - 80 (60 - 80), 3 of 6"
    assert rows["pancreas, HU of voxels: median (5 - 95 %)"] == "100 - 110 (100 - 110)"
    assert rows["cases usable"] == "7" and rows["cases with tumour"] == "fewer than 3"
    assert rows["axes of the files"] == "LPS 6 to 8"


def test_a_report_shows_nothing_of_a_single_patient():
    volumes = [61.37, 62.11, 63.73, 64.19, 118.53]
    report = cohort.summarise("C1", [finding(i, pancreas_ml=v) for i, v in enumerate(volumes)])
    text = json.dumps(report, allow_nan=False)
    assert not [word for word in ("DOE", "hospital", "nii", "mark", "digest") if word in text]
    assert not [v for v in volumes if str(v) in text or f"{v:.4g}" in text]
    assert report["volume_ml"]["pancreas"] == {"total": 3, "bins": {"3": 3}}


@pytest.mark.parametrize("voxels", [512, 500, 768, 96, 1024])
def test_one_matrix_of_another_size_leaves_no_trace_among_twenty(voxels):
    """Of 19 scans with 512 voxels and one with 768, an earlier format told exactly that."""
    expected = summary(shape=[(512, 512, 200)] * 20)
    assert summary(shape=[(512, 512, 200)] * 19 + [(voxels, 512, 200)]) == expected


def _shapes(low, high, step):
    return [(x, 512, 200) for x in range(low, high, step)]


def _spacings(low, high, step):
    return [(mm / 100, 0.7, 1.0) for mm in range(low, high, step)]


@pytest.mark.parametrize(
    ("quantity", "values", "patients"),
    [
        ("shape", _shapes(501, 714, 15), 3),
        ("shape", _shapes(501, 714, 35), 5),
        # Extents follow from spacings, in bins whose edges lie elsewhere.
        ("spacing", _spacings(66, 94, 2), 3),
        ("spacing", _spacings(66, 84, 2), 4),
        ("pancreas_ml", [61, 65, 79, 81, 99, 101, 119, 121, 139], 4),
        ("hu", [91, 95, 99, 101, 109, 111, 119], 4),
    ],
)
def test_whoever_solves_for_the_patients_determines_none_of_them(quantity, values, patients):
    """Finds all cohorts with the same report, as an attacker with any amount of time would.

    The attacker knows everything else about the patients. The counts of voxels, which are sums over
    at least three patients, are looked at in `test_patient_counts`.
    """
    alike = {}
    for numbers in itertools.combinations_with_replacement(range(len(values)), patients):
        report = json.loads(summary(**{quantity: [values[n] for n in numbers]}))
        if quantity != "hu":
            del report["hu"]
        alike.setdefault(json.dumps(report), []).append(numbers)
    assert len(alike) > 3
    for solutions in map(np.array, alike.values()):
        assert (np.ptp(solutions, axis=0) > 0).all()  # the patients are sorted by the value


def test_what_one_or_two_patients_are_is_not_counted():
    def told(**values):
        report = json.loads(summary(**values))
        return report["cases"], report["axes"], report["rules"]

    one_or_none = [
        told(axes=["LPS"] * 6 + rest, tumour_ml=[20.0] * 3 + [None] * 3 + tumours)
        for rest, tumours in (
            (["LPS", "LPS"], [20.0, None]),
            (["RAS", "LPS"], [None, None]),
            (["RAS", "RAS"], [20.0, 20.0]),
        )
    ]
    assert (
        one_or_none
        == [
            (
                {"usable": 8, "refused": 0, "without_label": 0, "with_tumour": 3},
                {"LPS": 6},
                {},
            )
        ]
        * 3
    )


def test_voxels_that_are_all_withheld_have_no_percentiles():
    report = cohort.summarise("C1", [finding(i, hu=40 * i) for i in range(4)])
    assert report["hu"]["pancreas"]["bins"] == {}
    rows = {row[0]: row[1] for row in cohort.rows(report)}
    assert rows["pancreas, HU of voxels: median (5 - 95 %)"] == "-"
    assert cohort.differences(report, {**report, "site": "C2"}) == []


def test_voxels_in_withheld_bins_take_no_part_in_percentiles():
    def told(odd):
        found = [finding(i, hu=100) for i in range(4)] + [finding(9 + n, hu=v) for n, v in odd]
        return cohort.levels(cohort.summarise("C1", found), "hu", "pancreas")

    low, high = (told(list(enumerate(hu))) for hu in ([-150, -100, -50], [-150, 250, 350]))
    assert low == high and (low.low, low.high) == (100, 110)


@pytest.mark.parametrize("patients", [0, 1, 2])
def test_a_site_of_fewer_than_three_tells_how_many_they_are_and_nothing_else(patients):
    report = cohort.summarise("C1", [finding(i, tumour_ml=20.0) for i in range(patients)])
    empty = cohort.summarise("C1", [])
    assert report == {**empty, "cases": {**empty["cases"], "usable": patients}}
    assert report["spacing_mm"] == {"x": None, "y": None, "z": None}
    assert {len(row) for row in cohort.rows(report)} == {2}


def test_tumours_of_two_patients_are_not_reported():
    report = cohort.summarise(
        "C1", [finding(i, tumour_ml=20.0 if i < 2 else None) for i in range(4)]
    )
    assert {*report["volume_ml"], *report["hu"], *report["median_hu"]} == {"pancreas"}
    assert report["cases"]["with_tumour"] == 0


def test_refused_cases_are_counted_in_groups_and_not_measured():
    bad = [
        finding(
            9 + i,
            pancreas_ml=190.0,
            problems=[rules.broken(rules.EMPTY, "/hospital/l9.nii.gz", "no voxel is labelled")],
        )
        for i in range(4)
    ]
    good = [finding(i) for i in range(3)]
    report = cohort.summarise("C1", [*good, *bad])
    assert report["cases"]["refused"] == 3 and report["rules"] == {"L03": 3}
    assert report["cases"]["usable"] == 3
    assert report["volume_ml"]["pancreas"] == {"total": 3, "bins": {"4": 3}}
    assert cohort.summarise("C1", [*good, bad[0]]) == cohort.summarise("C1", good)


def test_two_sites_side_by_side():
    one = cohort.summarise("C1", [finding(i) for i in range(4)])
    other = cohort.summarise(
        "C2", [finding(i, spacing=(0.7, 0.7, 5.0), tumour_ml=25.0, hu=80) for i in range(3)]
    )
    rows = {row[0]: row[1:] for row in cohort.rows(one, other)}
    assert rows["cases usable"] == ["4", "3"]
    assert rows["spacing z, mm: median (5 - 95 %)"] == [
        "0.95 - 1.05 (0.95 - 1.05), 3 of 4",
        "4.95 - 5.05 (4.95 - 5.05)",
    ]
    assert rows["tumour, ml: median (5 - 95 %)"] == ["-", "20 - 40 (20 - 40)"]
    found = "\n".join(cohort.differences(one, other))
    assert (
        "spacing along z: 1 mm at C1, 5 mm at C2" in found
        and "pancreas HU: 105 at C1, 85 at C2" in found
        and "tumour is labelled at C2 only" in found
    )
    assert cohort.differences(one, {**one, "site": "C3"}) == []


def test_medians_in_bins_that_touch_do_not_count_as_different():
    one, other = (
        cohort.summarise(site, [finding(i, pancreas_ml=ml) for i in range(3)])
        for site, ml in (("C1", 39.0), ("C2", 41.0))
    )
    assert cohort.differences(one, other) == []


def test_two_reports_subtracted_tell_of_the_one_patient_between_them():
    before, after = (
        json.loads(json.dumps(cohort.summarise("C1", [finding(i) for i in range(count)])))
        for count in (4, 5)
    )
    # this is what the warning is about, and no rule on one report alone can prevent it
    shown = [report["hu"]["pancreas"]["total"] for report in (before, after)]
    assert shown[1] - shown[0] == round(80_000 / 0.49)
    warning = cohort.told_by_difference(before, after)
    assert "of 5 usable cases, replaces a different one, of 4. Anyone with both" in warning
    exchanged = cohort.summarise("C1", [finding(i, pancreas_ml=50.0 + i) for i in range(5)])
    assert "of 5 usable cases, replaces a different one, of 5" in cohort.told_by_difference(
        after, exchanged
    )
    assert cohort.told_by_difference(after, {**after, "splits": {"training": 5}}) == ""
    for other in (None, [], {}, {"cases": 3}, "x"):
        assert cohort.told_by_difference(other, after) == ""
