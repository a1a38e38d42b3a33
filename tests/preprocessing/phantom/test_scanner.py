"""The scanner against slow averages and closed forms."""

import numpy as np
import pytest

from preprocessing.phantom.pancreas import Target
from preprocessing.phantom.scanner import Acquisition, linear_weights, scan
from preprocessing.phantom.space import Pose, Space, ellipsoid
from runkit.randomness import generator


def test_interpolation_reproduces_a_ramp():
    grid = 3.0 + 2.0 * np.arange(11)
    positions = np.array([3.0, 4.1, 10.7, 23.0])
    np.testing.assert_allclose(
        linear_weights(positions, 3.0, 2.0, 11) @ (5.0 * grid + 1.0),
        5.0 * positions + 1.0,
        rtol=1e-6,
    )


def test_a_thick_slice_is_the_mean_over_its_thickness():
    values = generator(1, "values").normal(size=21).astype(np.float32)
    thick = linear_weights(np.array([10.0, 25.0]), 0.0, 2.0, 21, thickness_mm=5.0) @ values
    fine = [
        np.mean(np.interp(np.linspace(c - 2.5, c + 2.5, 4001), 2.0 * np.arange(21), values))
        for c in (10.0, 25.0)
    ]
    np.testing.assert_allclose(thick, fine, atol=0.02)


def test_a_thick_slice_equals_the_mean_of_thin_slices():
    values = generator(2, "values").normal(size=41).astype(np.float32)
    thick = linear_weights(np.array([20.0]), 0.0, 1.7, 41, thickness_mm=5.0) @ values
    thin = linear_weights(18.0 + np.arange(5.0), 0.0, 1.7, 41, thickness_mm=1.0) @ values
    np.testing.assert_allclose(thick, [thin.mean()], atol=1e-5)


def acquisition(**changes):
    values = {
        "shape": (70, 60, 12),
        "spacing_mm": (1.0, 1.0, 5.0),
        "first_mm": (-34.5, -29.5, -27.5),
        "noise_hu": 0.0,
        "noise_passes": 1,
        "kernel_mm": 0.0,
    }
    return Acquisition(**{**values, **changes})


@pytest.fixture(scope="module")
def ball():
    space = Space((-36, -31, -31), (36, 31, 31), 2.0, Pose(), 0.0, generator(1, "ball"))
    box, distance = ellipsoid(space, (3.0, 2.0, 1.0), (15.0, 15.0, 15.0))
    _, tumour = ellipsoid(space, (3.0, 2.0, 1.0), (7.0, 7.0, 7.0), within=box)
    return space, Target(box, distance, tumour)


def test_labels_are_the_shapes_at_the_native_voxel_centres(ball):
    space, target = ball
    native = acquisition()
    outside = np.full(space.shape, 50.0, np.float32)
    _, labels = scan(
        space, np.zeros(space.shape, np.float32), outside, target, native, generator(1, "scan")
    )
    x, y, z = np.meshgrid(*(native.centres(a) for a in range(3)), indexing="ij")
    radius = np.sqrt((x - 3) ** 2 + (y - 2) ** 2 + (z - 1) ** 2)
    expected = np.where(radius < 7, 2, np.where(radius < 15, 1, 0))
    # linear interpolation of a curved distance
    undecided = (np.abs(radius - 7) < 0.3) | (np.abs(radius - 15) < 0.3)
    np.testing.assert_array_equal(labels[~undecided], expected[~undecided])
    assert labels.flags.f_contiguous
    assert labels.dtype == np.uint8


@pytest.mark.parametrize(("depth_mm", "share"), [(50, 1.0), (63, 1.15), (120, 1.15), (-20, 0.3)])
def test_the_stated_noise_is_that_50_mm_below_the_skin(ball, depth_mm, share):
    """And 15 % more at the centre of the body, as docs/data.md says."""
    space, target = ball
    body = np.full(space.shape, -float(depth_mm), np.float32)
    native = acquisition(shape=(70, 60, 40), noise_hu=20.0)
    hu = np.zeros(space.shape, np.float32)
    ct, _ = scan(space, hu, body, target, native, generator(1, "scan"))
    noise = ct.astype(float) - ct.mean(axis=2, keepdims=True)
    assert noise.std() == pytest.approx(share * 20.0, rel=0.05)


def test_noise_has_the_stated_deviation_and_is_correlated_only_in_plane(ball):
    space, target = ball
    # deep enough in the body for the highest noise: 1.15 times
    deep = np.full(space.shape, -70.0, np.float32)
    hu = np.full(space.shape, 40.0, np.float32)
    ct, _ = scan(
        space,
        hu,
        deep,
        target,
        acquisition(shape=(70, 60, 40), noise_hu=20.0, noise_passes=2),
        generator(1, "scan"),
    )
    noise = ct.astype(float) - ct.mean(axis=2, keepdims=True)
    assert noise.std() == pytest.approx(23.0, rel=0.05)
    # almost Gaussian
    assert np.mean(noise**4) / np.mean(noise**2) ** 2 == pytest.approx(3.0, abs=0.2)

    def correlation(a, b):
        return np.mean(a * b) / np.mean(noise**2)

    # two passes have the weights 1 2 1: (1*2 + 2*1) / (1 + 4 + 1)
    assert correlation(noise[1:], noise[:-1]) == pytest.approx(4 / 6, abs=0.05)
    assert abs(correlation(noise[:, :, 1:], noise[:, :, :-1])) < 0.05


def test_values_stay_within_the_range_of_ct(ball):
    space, target = ball
    hu = np.full(space.shape, -1500.0, np.float32)
    hu[: space.shape[0] // 2] = 9000.0
    ct, _ = scan(
        space,
        hu,
        np.full(space.shape, 5.0, np.float32),
        target,
        acquisition(),
        generator(1, "scan"),
    )
    assert (ct.min(), ct.max()) == (-1024, 3071)
    assert ct.dtype == np.int16
