"""Deformations against closed forms: properties of a field, and warping by a known field."""

import numpy as np
import pytest

from preprocessing.deformed import deformation
from runkit.randomness import generator

SHAPE, SPACING = (61, 51, 31), (2.0, 2.0, 4.0)


def smooth_field():
    return deformation.draw(SHAPE, SPACING, generator(4, "field"))


def at(field, places_mm):
    """Trilinear interpolation, one point after the other."""
    found = []
    for place in places_mm:
        index = [p / s for p, s in zip(place, field.steps_mm, strict=True)]
        low = [min(int(i), n - 2) for i, n in zip(index, field.offsets_mm.shape[1:], strict=True)]
        part = field.offsets_mm[(slice(None), *(slice(k, k + 2) for k in low))].astype(float)
        for i, k in zip(index, low, strict=True):
            part = part[:, 0] * (1 - (i - k)) + part[:, 1] * (i - k)
        found.append(part)
    return np.array(found)


def test_a_field_folds_nowhere_and_is_still_at_the_faces():
    rng = generator(5, "places")
    for seed in range(5):
        field = deformation.draw(
            SHAPE, SPACING, generator(seed, "field"), deviation_mm=30.0
        )  # far more than there is room for
        assert field.steepness() == pytest.approx(0.9, abs=1e-5)
        assert np.abs(field.offsets_mm).max() > 3.0
        for axis in range(3):
            faces = np.moveaxis(field.offsets_mm, axis + 1, 0)
            assert (faces[0] == 0).all() and (faces[-1] == 0).all()
        places = rng.uniform(0.01, 0.99, (200, 3)) * field.extent_mm
        step = 1e-3
        jacobian = np.stack(
            [(at(field, places + step * unit) - at(field, places)) / step for unit in np.eye(3)],
            axis=-1,
        ) + np.eye(3)
        assert np.linalg.det(jacobian).min() > 0.0


def test_a_gentle_field_keeps_its_stated_deviation():
    inner = [
        deformation.draw(
            (128, 128, 128), (3.0, 3.0, 3.0), generator(seed, "field"), deviation_mm=1.0
        ).offsets_mm[:, 20:-20, 20:-20, 20:-20]
        for seed in range(8)
    ]
    assert np.std(inner) == pytest.approx(1.0, abs=0.2)


def test_a_ramp_shows_the_displacement():
    field = smooth_field()
    axes = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )
    rng = generator(6, "voxels")
    voxels = np.stack([rng.integers(6, n - 6, 60) for n in SHAPE], axis=1)
    offsets = at(field, voxels * SPACING)
    for axis in range(3):
        warped = deformation.warp(axes[axis].astype(np.float32) * 10.0, field)
        expected = 10.0 * (voxels[:, axis] * SPACING[axis] + offsets[:, axis])
        np.testing.assert_allclose(
            warped[tuple(voxels.T)], expected, atol=0.51
        )  # rounded to whole HU


def test_masks_and_scans_move_together_and_stay_in_range():
    field = smooth_field()
    x, y, z = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )
    ball = (x - 60) ** 2 + (y - 50) ** 2 + (z - 60) ** 2 < 25**2
    ct = np.where(ball, 100, -100).astype(np.int16)
    moved, mask = deformation.warp(ct, field), deformation.warp(ball, field, mask=True)
    assert mask.dtype == bool and moved.dtype == np.int16
    assert moved.min() >= -100 and moved.max() <= 100  # cubic splines overshoot at an edge
    assert np.mean((moved > 0) == mask) > 0.998
    assert 0.01 < np.mean(mask != ball) < 0.2
    still = deformation.Field(np.zeros_like(field.offsets_mm), field.extent_mm)
    np.testing.assert_array_equal(deformation.warp(ct, still), ct)
    np.testing.assert_array_equal(deformation.warp(ball, still, mask=True), ball)


def test_one_slice_cannot_be_deformed():
    with pytest.raises(ValueError, match=r"shape is \(20, 20, 1\); .* at least two voxels"):
        deformation.draw((20, 20, 1), (2.0, 2.0, 2.0), generator(1, "field"))
