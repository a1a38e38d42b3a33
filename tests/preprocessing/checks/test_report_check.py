"""A file from another site is refused in one line, or everything in it can be shown."""

import copy
import itertools
import json
import math

import numpy as np
import pytest

from experiments.reports import cohort_page
from preprocessing.checks import cohort, cohort_counts, plan_proposal, report_check
from tests.preprocessing.checks import test_cohort, test_plan_proposal

INSTEAD = [None, -1, 1.5, 10**400, math.nan, "x", [], {"x": 1}]


def sound(patients=12):
    rng = np.random.default_rng(3)
    return [
        test_cohort.finding(
            i,
            spacing=(float(rng.choice([0.7, 0.8])),) * 2 + (1.0,),
            pancreas_ml=float(rng.uniform(40, 120)),
            tumour_ml=float(rng.uniform(2, 30)) if i % 2 else None,
        )
        for i in range(patients)
    ]


def report(site="C1", patients=12):
    splits = {"training": 3, "validation": 1, "test": 1}
    return json.loads(json.dumps(cohort.summarise(site, sound(patients), splits)))


def places(value, path=()):
    """All keys of a report, down to the numbers; of lists the first entry."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, inner in entries:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def edited(whole, place, value):
    changed = copy.deepcopy(whole)
    part = changed
    for key in place[:-1]:
        part = part[key]
    if value is KeyError:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return changed


OTHER = report("C9")


def show(found):
    """What a comparison does with a report that was let through."""
    report_check.check(found)
    both = [cohort_counts.of_report(one) for one in (found, OTHER)]
    proposals = plan_proposal.propose(both, test_plan_proposal.BASE)
    for one in proposals:
        values = one.value if isinstance(one.value, tuple) else (one.value,)
        assert all(math.isfinite(v) for v in values)
    cohort_page.text_table([found, OTHER])
    cohort_page.text_histograms([found, OTHER])
    page = cohort_page.page([found, OTHER], proposals)
    assert "nan" not in page and len(page) < 10**6


@pytest.mark.parametrize("patients", [0, 1, 2, 3, 4, 7, 30])
def test_what_a_site_writes_passes(patients):
    report_check.check(report(patients=patients))


def test_a_report_that_was_edited_anywhere_is_refused_or_shown():
    whole, refused = report(), 0
    show(whole)
    values = itertools.cycle([*INSTEAD, KeyError])
    for place in places(whole):
        for value in itertools.islice(values, 4):
            try:
                show(edited(whole, place, value))
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1000, place
    assert refused > 200


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("format",), True, "its format is 'True'"),
        (("site",), " ", "its site is ' '"),
        (("site",), "C" * 10**6, "its site is 'CCC"),
        (("axes",), {"L" * 10**6: 1}, "a name in its axes is "),
        (("cases", "usable"), -1, "site C1: usable is '-1'"),
        (("axes",), ["LPS"], "'list' object has no attribute 'items'"),
        (("rules",), {"L03": 1.5}, "its rules is '1.5'"),
        (("hu",), {}, "site C1: volumes and HU of pancreas come from different cases"),
        (("hu", "pancreas", "total"), 10**12, "site C1: 1000000000000 voxels of pancreas"),
        (("extent_mm", "z"), KeyError, "site C1: lacks 'z'"),
    ],
)
def test_what_is_wrong_is_named(place, value, words):
    with pytest.raises(ValueError, match=words):
        report_check.check(edited(report(), place, value))


@pytest.mark.parametrize("found", [None, 3, "x", [], {}, {"format": 3}])
def test_another_file_is_refused(found):
    with pytest.raises(ValueError, match=r"lacks|not subscriptable|indices must be"):
        report_check.check(found)
