"""Proposals from the sites' sums against NumPy on the pooled values of all patients."""

import json
import math
import pathlib

import numpy as np
import pytest

from preprocessing.checks import cohort, cohort_sums, plan_proposal
from preprocessing.checks.plan_proposal import Base
from preprocessing.checks.survey import HU_EDGES, CheckFinding, Facts
from preprocessing.manifest import Case

BASE = Base(
    patch_size=(96, 96, 96),
    batch_size=8,
    size_multiple=16,
    foreground_fraction=0.5,
    class_prior=(0.985, 0.012, 0.003),
)


def case(rng, number, *, spacing, tumour=True, label=True):
    """A patient with HU around 80 and random volumes; its z spacing may be much coarser."""
    volumes = {1: float(rng.uniform(40, 120))} | ({2: float(rng.uniform(2, 60))} if tumour else {})
    hu = {
        class_: tuple(
            int(n)
            for n in np.histogram(
                np.clip(rng.normal(80 - 30 * class_, 30, 4000), -200, 399), HU_EDGES
            )[0]
        )
        for class_ in volumes
    }
    shape = (512, 512, int(rng.choice([90, 150, 240])))
    facts = Facts(shape, spacing, "LPS", volumes if label else {}, hu if label else {}, {})
    path = pathlib.Path(f"l{number}.nii.gz") if label else None
    return CheckFinding(Case(str(number), pathlib.Path(f"{number}.nii.gz"), path), (), facts)


def site(rng, patients, *, coarse=False, tumours=True, distinct=3):
    """Findings of a site with few distinct spacings.

    With 40 patients or more, each spacing occurs in at least three patients.
    """
    mm = rng.choice(np.arange(6, 10) / 10, distinct, replace=False)
    z = [5.0, 3.0] if coarse else [0.8, 1.0]
    return [
        case(
            rng,
            number,
            spacing=(float(rng.choice(mm)),) * 2 + (float(rng.choice(z)),),
            tumour=tumours and number % 3 != 0,
            label=number % 7 != 6,
        )
        for number in range(patients)
    ]


def told(sites):
    """The proposals from the reports, which went through JSON."""
    reports = [
        json.loads(json.dumps(cohort.summarise(f"C{n}", findings)))
        for n, findings in enumerate(sites)
    ]
    sums = [cohort_sums.of_report(report) for report in reports]
    return {one.setting: one for one in plan_proposal.propose(sums, BASE)}


def level(values, percent):
    return np.percentile(values, percent, method="inverted_cdf")


def pooled(sites):
    """The same rules in NumPy on the values of all patients together."""
    facts = [f.facts for findings in sites for f in findings]
    spacings = np.round([f.spacing_mm for f in facts], 1)
    extents = np.array([np.multiply(f.shape, f.spacing_mm) for f in facts])
    extent = np.array([level(np.floor(extents[:, i] / 50) * 50 + 25, 50) for i in range(3)])
    spacing = np.array([level(spacings[:, i], 50) for i in range(3)])
    voxels = extent / spacing
    if spacing[2] > 3 * max(spacing[:2]) and voxels[2] * 3 < min(voxels[:2]):
        spacing[2] = max(level(spacings[:, 2], 10), *spacing[:2])
    hu = np.concatenate(
        [np.repeat(HU_EDGES[:-1], counts) for f in facts for counts in f.hu.values()]
    )
    labelled = [f.facts for findings in sites for f in findings if f.case.label is not None]
    scans = np.array([np.prod(f.shape) * np.prod(f.spacing_mm) / 1000 for f in labelled])
    volumes = np.array([[f.volume_ml.get(c, 0.0) for c in (1, 2)] for f in labelled])
    return {
        "spacing_mm": spacing,
        "window_hu": (level(hu, 0.5), level(hu, 99.5) + 10),
        "voxels": extent / spacing,
        "dataset": sum(np.prod(e) for e in extents) / np.prod(spacing),
        "ml": volumes.mean(axis=0),
        "of_scan": (volumes / scans[:, None]).mean(axis=0),
    }


@pytest.mark.parametrize("seed", range(4))
def test_proposals_are_those_of_the_pooled_values(seed):
    rng = np.random.default_rng(seed)
    sites = [
        site(rng, int(rng.integers(45, 70)), coarse=rng.random() < 0.5, tumours=rng.random() < 0.7)
        for _ in range(rng.integers(2, 4))
    ]
    found, expected = told(sites), pooled(sites)
    assert not [one.reason for one in found.values() if "bounds" in one.reason]
    np.testing.assert_allclose(found["spacing_mm"].value, expected["spacing_mm"], rtol=1e-9)
    np.testing.assert_array_equal(found["window_hu"].value, expected["window_hu"])
    patch = found["patch_size"].value
    assert patch == plan_proposal.patch_shape(expected["voxels"], 96**3, 16)
    size = math.prod(patch)
    assert found["batch_size"].value == max(
        2, min(8 * 96**3 // size, int(0.05 * expected["dataset"] // size))
    )
    patch_ml = size * np.prod(expected["spacing_mm"]) / 1000
    shares = 0.5 * expected["ml"] / patch_ml + 0.5 * expected["of_scan"]
    shares = np.maximum(shares, 1e-4)
    np.testing.assert_allclose(found["class_prior"].value[1:], shares, rtol=1e-3)
    assert sum(found["class_prior"].value) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_what_small_sites_withhold_leaves_the_pooled_values_within_the_bounds(seed):
    rng = np.random.default_rng(50 + seed)
    sites = [site(rng, int(rng.integers(3, 12)), distinct=4) for _ in range(3)]
    found, expected = told(sites), pooled(sites)
    for name, words in (("spacing_mm", "xyz"), ("window_hu", ("low", "high"))):
        reason = found[name].reason
        for word, given, value in zip(words, found[name].value, expected[name], strict=True):
            _, stated, after = reason.partition(f" {word} ")
            bounds = after.replace(",", "").split()[:3:2] if "bounds in" in reason else ()
            if stated and bounds:
                assert float(bounds[0]) - 1e-9 <= value <= float(bounds[1]) + 1e-9
            elif "without" not in reason:  # the tumours of a site may be withheld altogether
                assert given == pytest.approx(value)


def test_a_site_too_small_to_say_anything_is_named():
    rng = np.random.default_rng(1)
    large, small = site(rng, 50), site(rng, 2)
    found, expected = told([large, small]), pooled([large])
    np.testing.assert_allclose(found["spacing_mm"].value, expected["spacing_mm"])
    assert "; without C1: fewer than 3 patients" in found["spacing_mm"].reason
    assert "median over 50 scans" in found["spacing_mm"].reason
    assert "without the pancreas of C1: fewer than 3 patients" in found["class_prior"].reason
    with pytest.raises(ValueError, match="no site gives the extent along x of at least 3 patients"):
        told([small, small])


def test_a_class_that_a_site_does_not_label_takes_no_part():
    rng = np.random.default_rng(2)
    both = [site(rng, 40), site(rng, 40, tumours=False)]
    labels = {"pancreas": "complete", "tumour": "unlabelled"}
    reports = [cohort.summarise("C0", both[0]), cohort.summarise("C1", both[1], labels=labels)]
    sums = [cohort_sums.of_report(report) for report in reports]
    prior = plan_proposal.propose(sums, BASE)[-1]
    alone = plan_proposal.propose(sums[:1], BASE)[-1]
    assert prior.value[2] == pytest.approx(alone.value[2], rel=0.5)  # not halved with C1's zeros
    assert "without the tumour of C1, which is not labelled there" in prior.reason


@pytest.mark.parametrize(
    ("voxels", "most", "expected"),
    [
        ((400, 400, 300), 96**3, (96, 112, 80)),  # 860,160 voxels of 884,736
        ((512, 512, 30), 96**3, (224, 240, 16)),
        ((60, 50, 40), 96**3, (48, 48, 32)),  # no larger than the scan
        ((5, 5, 5), 96**3, (16, 16, 16)),
        ((400, 400, 400), 1, (16, 16, 16)),
    ],
)
def test_patches_by_hand(voxels, most, expected):
    assert plan_proposal.patch_shape(voxels, most, 16) == expected


def test_every_proposal_has_one_line_with_its_source():
    found = told([site(np.random.default_rng(3), 40)])
    assert list(found) == ["spacing_mm", "window_hu", "patch_size", "batch_size", "class_prior"]
    for one in found.values():
        assert "\n" not in one.reason
        assert "nnU-Net, Isensee et al. 2021" in one.reason or "of this product" in one.reason
