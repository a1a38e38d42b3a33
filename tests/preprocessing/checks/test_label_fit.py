import itertools

import numpy as np
import pytest

from preprocessing.checks import label_fit

SPACING = (1.5, 1.5, 2.0)
SHAPE = (60, 50, 40)


def scene(noise_hu=20.0):
    """A box of 100 HU in -60 HU, off the centre along every axis."""
    label = np.zeros(SHAPE, np.uint8, order="F")
    label[14:30, 10:22, 8:17] = 1
    hu = np.where(label > 0, 100.0, -60.0) + np.random.default_rng(1).normal(0, noise_hu, SHAPE)
    return np.asfortranarray(hu.astype(np.float32)), label


@pytest.mark.parametrize("noise_hu", [5.0, 20.0, 30.0])
def test_the_fit_is_the_step_divided_by_the_spread(noise_hu):
    hu, label = scene(noise_hu)
    expected = 160.0 / np.sqrt(2 * noise_hu**2 + 10.0**2)
    assert label_fit.goodness_of_fit(hu, label_fit.sample(label, SPACING)) == pytest.approx(
        expected, rel=0.04
    )


def test_the_mirror_image_that_fits_is_found():
    hu, label = scene()
    for flip in label_fit.FLIPS:
        turned = np.asfortranarray(np.flip(label, [axis for axis in range(3) if flip[axis]]))
        fits = label_fit.fits(hu, label_fit.sample(turned, SPACING))
        best, second = list(fits.items())[:2]
        assert best[0] == flip and best[1] > 4 and second[1] < 1


@pytest.mark.parametrize("voxels", [(0, 0, 0), (6, 0, 0), (0, -4, 2), (-5, 9, 8)])
def test_the_place_where_a_moved_label_belongs_is_found(voxels):
    hu, label = scene()
    where = label_fit.sample(np.asfortranarray(np.roll(label, voxels, axis=(0, 1, 2))), SPACING)
    fit, shift = label_fit.best_shift(hu, where)
    np.testing.assert_allclose(shift, -np.array(voxels) * SPACING, atol=1.5)  # to a sample
    assert fit == pytest.approx(
        label_fit.goodness_of_fit(hu, label_fit.sample(label, SPACING)), rel=0.15
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_box_is_found_in_any_memory_order_and_direction(order):
    _, label = scene()
    places = np.argwhere(label)
    for flip in label_fit.FLIPS:
        view = np.asfortranarray(label.transpose(order)).transpose(np.argsort(order))
        view = view[tuple(slice(None, None, -1) if f else slice(None) for f in flip)]
        low, high = places.min(axis=0), places.max(axis=0) + 1
        expected = [
            (n - b, n - a) if f else (a, b)
            for n, a, b, f in zip(SHAPE, low, high, flip, strict=True)
        ]
        assert label_fit.bounding_box(view, (2.0, 2.0, 2.0)) == expected


def test_a_label_thinner_than_the_search_is_found():
    label = np.zeros((20, 20, 60), np.uint8, order="F")
    label[4:9, 5:9, 31] = 1
    assert label_fit.bounding_box(label, (1.0, 1.0, 0.3)) == [(4, 9), (5, 9), (31, 32)]
    assert label_fit.bounding_box(np.zeros_like(label), (1.0, 1.0, 0.3)) is None


def test_a_label_of_a_few_voxels_has_no_fit():
    hu, label = scene()
    label[:] = 0
    label[5, 5, 5:10] = 1
    where = label_fit.sample(label, SPACING)
    assert (
        label_fit.goodness_of_fit(hu, where),
        label_fit.fits(hu, where),
        label_fit.best_shift(hu, where),
    ) == (None, {}, None)
