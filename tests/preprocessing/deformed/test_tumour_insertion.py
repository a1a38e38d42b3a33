"""Tumours in a known scan: a cylinder of organ in fat, beside bone and gas."""

import numpy as np
import pytest
from scipy import ndimage

from preprocessing.deformed import tumour_insertion
from preprocessing.deformed.tumour_insertion import insert, measure
from preprocessing.phantom.tumour import Tumours
from runkit.randomness import generator

SPACING = (2.0, 2.0, 3.0)
VOXEL_ML = 0.012
MODEL = Tumours(volume_ml=(5.0, 15.0), below_organ_hu=(40.0, 40.0), iso_dense=0.0)


def scan(level=100.0, noise=10.0):
    """A cylinder of 40 mm along x in fat at -100 HU; bone behind it and gas before it."""
    shape = (60, 50, 30)
    x, y, z = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(shape, SPACING, strict=True)), indexing="ij"
    )
    organ = (np.hypot(y - 50, z - 45) < 20) & (x > 20) & (x < 100)
    hu = np.where(organ, level, -100.0) + generator(7, "noise").normal(0, noise, shape)
    hu[(y < 28)], hu[(y > 72)] = 600.0, -1000.0
    return np.rint(hu).astype(np.int16), organ


def test_a_tumour_has_the_drawn_volume_and_contrast_keeps_the_noise_and_leaves_the_rest():
    ct, organ = scan()
    for seed in range(4):
        painted, labels = insert(ct, organ, SPACING, MODEL, generator(seed, "tumour"))
        tumour = labels == 2
        assert 4.5 < np.count_nonzero(tumour) * VOXEL_ML < 16.5
        inner = ndimage.binary_erosion(tumour, iterations=2)
        assert np.median(painted[inner]) == pytest.approx(
            60.0, abs=10.0
        )  # 40 below the organ's 100, the core perhaps 12 darker
        fine = (painted - ndimage.gaussian_filter(painted.astype(float), 1.0))[inner].std()
        assert fine == pytest.approx(
            10.0, abs=2.0
        )  # the scan's, and not the step of 200 HU at the organ's surface
        far = ndimage.distance_transform_edt(~tumour, sampling=SPACING) > 6.0
        np.testing.assert_array_equal(painted[far], ct[far])
        assert ((labels == 1) | tumour)[organ].all() and not labels[~organ & ~tumour].any()
        assert not tumour[(ct > 400) | (ct < -500)].any()  # it keeps out of bone and gas
        beyond = ndimage.distance_transform_edt(~organ, sampling=SPACING)[tumour]
        assert beyond.max() < 5.0 + 3.0  # a bulge of 5 mm, and a voxel
        assert ndimage.label(tumour)[1] == 1


def test_a_tumour_is_at_least_as_bright_as_water_and_at_most_half_of_the_organ():
    ct, organ = scan(level=20.0)
    volume = np.count_nonzero(organ) * VOXEL_ML
    painted, labels = insert(
        ct,
        organ,
        SPACING,
        Tumours(volume_ml=(45.0, 200.0), below_organ_hu=(60.0, 60.0), iso_dense=0.0),
        generator(1, "t"),
    )
    inner = ndimage.binary_erosion(labels == 2, iterations=2)
    assert -13.0 < np.median(painted[inner]) < 6.0
    assert np.count_nonzero(labels == 2) * VOXEL_ML < 0.55 * volume


def test_the_organ_s_level_leaves_fat_out():
    ct, organ = scan(level=80.0, noise=2.0)
    ct[organ & (generator(1, "fat").random(ct.shape) < 0.3)] = -90
    found = measure(ct, organ, SPACING)
    assert found.level_hu == pytest.approx(80.0, abs=1.0)
    assert found.volume_ml == pytest.approx(np.pi * 2.0**2 * 8.0, rel=0.06)  # 20 mm by 80 mm


def test_an_organ_too_small_for_a_tumour_is_refused():
    ct, organ = scan()
    organ[25:] = False
    with pytest.raises(
        ValueError, match=r"its pancreas measures [\d.]+ ml; a tumour of 30 ml needs one of 60 ml"
    ):
        insert(ct, organ, SPACING, Tumours(volume_ml=(30.0, 45.0)), generator(1, "t"))


def test_six_of_ten_tumours_lie_in_the_head_on_the_patients_right():
    _, organ = scan()
    depth = np.where(organ, -ndimage.distance_transform_edt(organ, sampling=SPACING), 1.0)
    rng = generator(3, "places")
    x, y, z = np.array([tumour_insertion._place(depth, SPACING, rng) for _ in range(400)]).T
    head, tail = x > 100 - 80 / 3, x < 20 + 80 / 3
    assert head.mean() == pytest.approx(0.6, abs=0.08) and tail.mean() == pytest.approx(
        0.18, abs=0.06
    )  # three standard errors
    assert np.hypot(y - 50, z - 45).max() < 20
