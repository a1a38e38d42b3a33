"""Proposals from the sites' sums against NumPy on the pooled values of all patients."""

import json
import math
import pathlib

import numpy as np
import pytest

from preprocessing.case_list import Case
from preprocessing.checks import cohort, cohort_counts, plan_proposal
from preprocessing.checks.plan_proposal import Base
from preprocessing.checks.survey import HU_EDGES, CheckFinding, Facts

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
            * round(ml / np.prod(spacing) / 4)  # voxels of that volume
        )
        for class_, ml in volumes.items()
    }
    shape = (512, 512, int(rng.choice([90, 150, 240])))
    medians = dict.fromkeys(volumes, 80.0)
    drawn = (volumes, hu, medians) if label else ({}, {}, {})
    facts = Facts(shape, spacing, "LPS", *drawn)
    path = pathlib.Path(f"l{number}.nii.gz") if label else None
    return CheckFinding(Case(str(number), pathlib.Path(f"{number}.nii.gz"), path), (), facts)


def site(rng, patients, *, coarse=False, tumours=True, distinct=3):
    """Findings of a site with few distinct spacings."""
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
    sums = [cohort_counts.of_report(report) for report in reports]
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
    voxels = np.sum([counts for f in facts for counts in f.hu.values()], axis=0)
    low, high = (np.searchsorted(1000 * np.cumsum(voxels), n * voxels.sum()) for n in (5, 995))
    labelled = [f.facts for findings in sites for f in findings if f.case.label is not None]
    volumes = np.array([[f.volume_ml.get(c, 0.0) for c in (1, 2)] for f in labelled])
    return {
        "spacing_mm": spacing,
        "window_hu": (HU_EDGES[low], HU_EDGES[high] + 10),
        "voxels": extent / spacing,
        "dataset": len(extents) * np.prod(extent) / np.prod(spacing),
        "ml": volumes.mean(axis=0),
        "scan_ml": np.prod(extent) / 1000,
    }


def agrees(proposal, words, expected):
    """Whether the proposal gives the expected values, or states bounds that hold them.

    Returns how many values are given without bounds.
    """
    exact = 0
    for word, value, right in zip(words, proposal.value, expected, strict=True):
        _, _, after = proposal.reason.partition("bounds in ")
        _, stated, after = after.partition(f" {word} ")
        if stated:
            low, high = after.replace(",", "").split()[:3:2]
            assert float(low) - 1e-9 <= right <= float(high) + 1e-9
        else:
            assert value == pytest.approx(right)
            exact += 1
    return exact


@pytest.mark.parametrize("seed", range(6))
def test_proposals_are_those_of_the_pooled_values(seed):
    rng = np.random.default_rng(seed)
    sites = [
        site(rng, int(rng.integers(80, 120)), coarse=rng.random() < 0.5, tumours=n > 0)
        for n in range(rng.integers(2, 4))
    ]
    found, expected = told(sites), pooled(sites)
    exact = agrees(found["spacing_mm"], "xyz", expected["spacing_mm"])
    exact += agrees(found["window_hu"], ("low", "high"), expected["window_hu"])
    assert exact >= 3
    if "bounds" in found["spacing_mm"].reason + found["patch_size"].reason:
        return
    patch = found["patch_size"].value
    assert patch == plan_proposal.patch_shape(expected["voxels"], 96**3, 16)
    size = math.prod(patch)
    assert found["batch_size"].value == max(
        2, min(8 * 96**3 // size, int(0.05 * expected["dataset"] // size))
    )
    patch_ml = size * np.prod(expected["spacing_mm"]) / 1000
    shares = expected["ml"] * (0.5 / patch_ml + 0.5 / expected["scan_ml"])
    shares = np.maximum(shares, 1e-4)
    # Volumes are known to 20 ml.
    np.testing.assert_allclose(found["class_prior"].value[1:], shares, rtol=0.1)
    assert sum(found["class_prior"].value) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_what_small_sites_withhold_leaves_the_pooled_values_within_the_bounds(seed):
    rng = np.random.default_rng(50 + seed)
    # patients without tumours: those of one or two patients would not be in the report at all
    sites = [site(rng, int(rng.integers(6, 14)), distinct=4, tumours=False) for _ in range(3)]
    found, expected = told(sites), pooled(sites)
    agrees(found["spacing_mm"], "xyz", expected["spacing_mm"])
    agrees(found["window_hu"], ("low", "high"), expected["window_hu"])


def test_half_thin_and_half_thick_slices_leave_the_pooled_spacing_within_the_bounds():
    """Whether the 10th percentile or the median counts is then in no report."""
    uncertain = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        patients, z = int(rng.integers(12, 40)), ([0.8, 1.0, 1.2], [5.0, 4.0, 1.2][: 1 + seed % 3])
        sites = [
            [
                case(rng, n, spacing=(0.7, 0.7, float(rng.choice(slices))), tumour=False)
                for n in range(patients + int(rng.integers(-1, 2)))
            ]
            for slices in z
        ]
        found, expected = told(sites), pooled(sites)
        agrees(found["spacing_mm"], "xyz", expected["spacing_mm"])
        uncertain += "whether scans are far coarser" in found["spacing_mm"].reason
    assert uncertain > 10


def test_one_unusual_scan_moves_no_proposal():
    rng = np.random.default_rng(4)
    usual = [case(rng, n, spacing=(0.7, 0.7, 1.0)) for n in range(19)]
    found = told([[*usual, case(rng, 19, spacing=(0.7, 0.7, 5.0))]])
    assert found["spacing_mm"].value == (0.7, 0.7, 1.0)
    assert "bounds" not in found["spacing_mm"].reason


def test_a_site_that_has_most_of_the_voxels_is_named():
    rng = np.random.default_rng(7)
    thin = [case(rng, n, spacing=(0.5, 0.5, 0.5)) for n in range(30)]
    thick = [case(rng, n, spacing=(0.9, 0.9, 5.0)) for n in range(30)]
    reason = told([thin, thick])["window_hu"].reason
    assert "% of these voxels are of C0" in reason and "of these voxels are of C1" not in reason
    assert "of these voxels are of" not in told([thin])["window_hu"].reason


def test_a_site_too_small_to_say_anything_is_named():
    rng = np.random.default_rng(1)
    large, small = site(rng, 50), site(rng, 2)
    found, expected = told([large, small]), pooled([large])
    agrees(found["spacing_mm"], "xyz", expected["spacing_mm"])
    assert "; without C1: fewer than 3 patients" in found["spacing_mm"].reason
    assert "median over 50 scans" in found["spacing_mm"].reason
    assert "without the pancreas of C1: fewer than 3 patients" in found["class_prior"].reason
    with pytest.raises(
        ValueError, match="no site gives the extent along x of at least 3 patients in"
    ):
        told([small, small])


def test_a_class_that_a_site_does_not_label_takes_no_part():
    rng = np.random.default_rng(2)
    both = [site(rng, 40), site(rng, 40, tumours=False)]
    labels = {"pancreas": "complete", "tumour": "unlabelled"}
    reports = [cohort.summarise("C0", both[0]), cohort.summarise("C1", both[1], labels=labels)]
    sums = [cohort_counts.of_report(report) for report in reports]
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
