"""Reports as earlier releases wrote them: they are still shown and compared."""

import json

import pytest

from experiments.reports import cohort_page
from preprocessing.checks import cohort, report_check
from preprocessing.checks.survey import HU_EDGES
from tests.preprocessing.checks.test_cohort import finding


def levels(median, **more):
    below, above = 0.8 * median, 1.2 * median
    return {
        "cases": 20,
        "mean": median,
        "sd": 0.1 * median,
        "p5": below,
        "p25": below,
        "median": median,
        "p75": above,
        "p95": above,
        **more,
    }


def report(site="C2", format_=1):
    """A site without tumours, in the layout of release 0.1.0; format 2 added `sums`."""
    spacing = {"lowest": 0.6, "median": 0.7, "highest": 0.9}
    volumes = {"edges": list(range(0, 201, 10)), "cases": [None] * 7 + [4, 16] + [None] * 11}
    hu = {"edges": list(HU_EDGES), "share": [None] * 29 + [0.4, 0.6] + [None] * 29}
    found = {
        "format": format_,
        "site": site,
        "cases": {
            "listed": 21,
            "usable": 20,
            "refused": 1,
            "without_label": 0,
            "with_tumour": 0,
        },
        "rules": {"L03": 1},
        "splits": None,
        "axes": {"LPS": 20},
        "spacing_mm": dict.fromkeys("xyz", spacing),
        "shape": dict.fromkeys("xyz", levels(512.0)),
        "extent_mm": dict.fromkeys("xyz", levels(360.0)),
        "volume_ml": {"pancreas": levels(80.0, histogram=volumes)},
        "hu": {
            "pancreas": {
                "median_of_case": levels(90.0),
                "p5": 40.0,
                "median": 95.0,
                "p95": 140.0,
                "histogram": hu,
            }
        },
    }
    return json.loads(json.dumps({**found, "sums": {}} if format_ == 2 else found))


@pytest.mark.parametrize("format_", [1, 2])
def test_an_older_report_is_shown_beside_a_new_one(format_):
    older = report(format_=format_)
    report_check.check(older)
    new = cohort.summarise("C1", [finding(i, tumour_ml=9.0, hu=135) for i in range(3)])
    rows = {row[0]: row[1:] for row in cohort.rows(new, older)}
    assert rows["cases usable"] == ["3", "20"]
    assert rows["cases refused"] == ["fewer than 3", "1"]
    assert rows["spacing x, mm: median (5 - 95 %)"] == [
        "0.65 - 0.75 (0.65 - 0.75)",
        "0.7 (0.6 - 0.9)",
    ]
    assert rows["pancreas, HU of voxels: median (5 - 95 %)"][1] == "95 (40 - 140)"
    assert rows["pancreas, ml: median (5 - 95 %)"][1] == "80 (64 - 96)"
    found = cohort.differences(new, older)
    assert any("pancreas HU: 135 at C1, 90 at C2" in line for line in found)
    assert any("tumour is labelled at C1 only" in line for line in found)
    text = cohort_page.text_histograms([new, older])
    assert "▅█" in text and "L03" in cohort_page.page([new, older])


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("cases", "usable"), -1, "its cases.usable is '-1'"),
        (("spacing_mm", "x", "median"), 0, "its spacing_mm.x.median is '0'"),
        (("hu",), {}, "pancreas is in one of volume_ml and hu only"),
        (("hu", "pancreas", "histogram", "edges"), [0, 1], r"its hu.pancreas.histogram.edges is "),
        (("volume_ml", "pancreas", "histogram", "cases"), [3], "histogram.cases has 1 bins"),
        (("extent_mm", "z"), {}, "lacks 'p5'"),
    ],
)
def test_what_is_wrong_in_an_older_report_is_named(place, value, words):
    older = report()
    part = older
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(ValueError, match=words):
        report_check.check(older)
