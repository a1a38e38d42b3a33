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
    volumes = [61.0, 83.0, 72.0, 95.0, 118.0]
    report = cohort.summarise(
        "C1",
        [
            finding(i, pancreas_ml=v, spacing=(0.6 + 0.1 * i, 0.7, 1.0))
            for i, v in enumerate(volumes)
        ],
        {"training": 3, "validation": 1, "test": 1},
    )
    assert report["cases"] == {
        "listed": 5,
        "usable": 5,
        "refused": 0,
        "without_label": 0,
        "with_tumour": 0,
    }
    assert report["spacing_mm"]["x"] == {"lowest": 0.6, "median": 0.8, "highest": 1.0}
    assert report["extent_mm"]["y"]["median"] == pytest.approx(280)
    told = report["volume_ml"]["pancreas"]
    # each percentile is the mean of three cases: the lowest three, the middle three, the highest
    # three
    assert (told["p5"], told["median"], told["p95"]) == (
        72.0,
        pytest.approx((72 + 83 + 95) / 3, rel=1e-3),
        pytest.approx((83 + 95 + 118) / 3, rel=1e-3),
    )
    assert told["mean"] == pytest.approx(85.8)
    assert report["hu"]["pancreas"]["median"] == pytest.approx(
        105
    )  # all voxels lie in the bin from 100 to 110
    share = report["hu"]["pancreas"]["histogram"]["share"]
    assert [(n, value) for n, value in enumerate(share) if value] == [(30, 1.0)]
    assert report["splits"] == {"training": 3, "validation": 1, "test": 1}


def test_a_report_shows_nothing_of_a_single_patient():
    volumes = [61.37, 62.11, 63.73, 64.19, 118.53]
    report = cohort.summarise("C1", [finding(i, pancreas_ml=v) for i, v in enumerate(volumes)])
    text = json.dumps(report, allow_nan=False)
    assert not [word for word in ("DOE", "hospital", "nii", "mark", "digest") if word in text]
    assert not [v for v in volumes if str(v) in text or f"{v:.4g}" in text]
    counts = report["volume_ml"]["pancreas"]["histogram"]["cases"]
    assert (
        counts[6] == 4 and counts[11] is None and counts.count(0) == len(counts) - 2
    )  # the one large pancreas is not told


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
