import tracemalloc

import numpy as np
import pytest
import scipy.ndimage

from preprocessing import geometry, intensity, resampling
from preprocessing.foreground import LabelBox
from preprocessing.volume import Grid, Volume
from tests.preprocessing.test_geometry import ORIENTATIONS, stored_affine
from tests.preprocessing.training_grid import training_grid


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "target_mm", "expected"),
    [
        (
            (512, 512, 200),
            (0.7, 0.7, 1.0),
            (1, 1, 1),
            (359, 359, 200),
        ),  # 511 * 0.7 = 357.7 -> 358 steps
        (
            (512, 512, 50),
            (0.68, 0.68, 5.0),
            (1, 1, 1),
            (348, 348, 246),
        ),  # 347.48 -> 347 steps; 49 * 5 = 245 steps
        (
            (512, 2, 4),
            (0.5, 0.5, 0.5),
            (1, 1, 1),
            (256, 2, 2),
        ),  # 256.5, 1.5 and 2.5: halves to the even number, after adding the 1
        ((1, 3, 3), (1, 1, 1), (3, 3, 3), (1, 2, 2)),
    ],
)
def test_shape_by_hand(shape, spacing_mm, target_mm, expected):
    assert resampling.resampled_shape(shape, spacing_mm, target_mm) == expected


def test_a_spacing_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"target_mm is \(1, 0, 1\)"):
        resampling.resampled_shape((3, 3, 3), (1, 1, 1), (1, 0, 1))


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.8, 5.0), (2.0, 1.3, 0.4)])
def test_a_resampled_ramp_is_the_same_ramp(spacing_mm):
    def ramp(shape, spacing):
        x, y, z = (np.arange(n) * s for n, s in zip(shape, spacing, strict=True))
        return 3.0 * x[:, None, None] - 2.0 * y[:, None] + 0.5 * z - 40.0

    shape, target_mm = (25, 31, 19), (1.0, 1.0, 1.0)
    result = resampling.resample_linear(
        ramp(shape, spacing_mm).astype(np.float32), spacing_mm, target_mm
    )
    expected = ramp(result.shape, target_mm)
    inside = tuple(
        slice(0, int((n - 1) * s) + 1) for n, s in zip(shape, spacing_mm, strict=True)
    )  # beyond the last centre the edge is held
    np.testing.assert_allclose(result[inside], expected[inside], atol=1e-4)


def test_positions_beyond_the_last_centre_take_its_value():
    result = resampling.resample_linear(
        np.array([0.0, 10.0, 20.0]).reshape(3, 1, 1), (0.9, 1, 1), (1, 1, 1)
    )
    np.testing.assert_allclose(
        result.ravel(), [0.0, 100 / 9, 20.0], rtol=1e-6
    )  # 2 mm lies 0.2 mm beyond the last centre


def test_agrees_with_the_slow_general_interpolation():
    rng = np.random.default_rng(1)
    array = np.asfortranarray(rng.integers(-1000, 1500, (30, 28, 12)).astype(np.int16))
    spacing_mm, target_mm = (0.68, 0.77, 2.5), (1.0, 1.2, 0.9)
    result = resampling.resample_linear(array, spacing_mm, target_mm)
    grid = np.meshgrid(
        *(
            np.arange(m) * t / s
            for m, t, s in zip(result.shape, target_mm, spacing_mm, strict=True)
        ),
        indexing="ij",
    )
    expected = scipy.ndimage.map_coordinates(
        array.astype(np.float64), grid, order=1, mode="nearest"
    )
    np.testing.assert_allclose(result, expected, atol=0.01)  # HU


def test_nearest_against_a_loop():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, (9, 8, 7)).astype(np.uint8)
    spacing_mm, target_mm = (0.7, 1.3, 3.0), (1.0, 1.0, 1.0)
    for array in (labels, np.asfortranarray(labels)):
        result = resampling.resample_nearest(array, spacing_mm, target_mm)
        assert result.dtype == np.uint8
        for index in np.ndindex(*result.shape):
            source = tuple(
                min(round(i * t / s), n - 1)
                for i, t, s, n in zip(index, target_mm, spacing_mm, labels.shape, strict=True)
            )
            assert result[index] == labels[source]


@pytest.mark.parametrize("target_mm", [(1.0, 1.0, 1.0), (2.5, 3.0, 4.0), (0.4, 0.5, 0.9)])
def test_a_box_is_resampled_as_the_whole_map_is(target_mm):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = np.zeros((9, 12, 7), dtype=np.uint8)
        labels[rng.integers(9) :, 2:9, : rng.integers(1, 7)] = rng.integers(0, 3, (1, 7, 1))
        box = resampling.resample_box(LabelBox.of(labels), (0.7, 1.3, 3.0), target_mm)
        expected = resampling.resample_nearest(labels, (0.7, 1.3, 3.0), target_mm)
        np.testing.assert_array_equal(box.array(), expected)
        assert box.voxels.shape == LabelBox.of(expected).voxels.shape


def test_the_resampled_shape_by_hand():
    # 10 steps of 1.5 mm are 15 of 1 mm; 4 of 2 mm are 2 of 4 mm; 3 of 3 mm are 4.5 of 2 mm, and
    # halves are rounded to even after adding 1.
    shape = resampling.resampled_shape((11, 5, 4), (1.5, 2.0, 3.0), (1.0, 4.0, 2.0))
    assert shape == (16, 3, 6)


def test_half_way_takes_the_even_neighbour_even_with_rounding_noise():
    labels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1)
    for spacing in (2.0, 2.0 * (1 + 1e-9), 2.0 * (1 - 1e-9)):
        result = resampling.resample_nearest(labels, (spacing, 1, 1), (1, 1, 1)).ravel()
        assert result.tolist() == [0, 0, 1, 2, 2, 2, 3]


def ball(shape, centre, radius):
    return (
        sum(
            (g - c) ** 2
            for g, c in zip(np.ogrid[tuple(slice(0, n) for n in shape)], centre, strict=True)
        )
        <= radius**2
    )


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.5, 2.0), (0.5, 0.5, 5.0), (2.0, 1.0, 0.5)])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (9, -6, 14)], ids=["upright", "oblique"])
def test_there_and_back_for_all_48_orientations(spacing_mm, degrees):
    """The stored mask is known in patient coordinates.

    The place of the restored mask thus shows whether every axis was restored.
    """
    native = np.zeros((14, 12, 10), dtype=np.uint8)
    native[3:8, 2:7, 4:8] = 1
    native[5:7, 3:6, 5:7] = 2
    for axes, signs in ORIENTATIONS:
        affine = stored_affine(axes, signs, spacing_mm=spacing_mm, degrees=degrees)
        upright = geometry.to_ras(Volume(native, affine))
        # every native centre is a training centre, so nothing is lost
        mask = resampling.resample_nearest(upright.array, upright.spacing_mm, (0.5, 0.5, 0.5))
        grid = training_grid(upright.grid, (0.5, 0.5, 0.5))
        assert grid.shape == mask.shape
        tumour = np.argwhere(mask == 2).mean(axis=0), np.argwhere(native == 2).mean(axis=0)
        centres = (
            grid.affine[:3, :3] @ tumour[0] + grid.affine[:3, 3],
            affine[:3, :3] @ tumour[1] + affine[:3, 3],
        )
        assert np.linalg.norm(centres[0] - centres[1]) < max(
            spacing_mm
        )  # a nearest voxel is half a voxel off at most
        scan = Grid(native.shape, affine)
        np.testing.assert_array_equal(
            resampling.restore_labels(mask, scan, (0.5, 0.5, 0.5)), native
        )
        shares = np.stack([mask == c for c in range(3)], axis=-1).astype(np.float16)
        restored = np.zeros(native.shape, dtype=np.uint8)
        for rows, slab in resampling.restored_probabilities(shares, scan, (0.5, 0.5, 0.5)):
            geometry.to_ras_order(restored, scan)[rows] = slab.argmax(axis=-1)
        np.testing.assert_array_equal(restored, native)


def random_probabilities(shape, classes, seed=0):
    scores = (
        scipy.ndimage.gaussian_filter(
            np.random.default_rng(seed).normal(size=(*shape, classes)), (2, 2, 2, 0)
        )
        * 40
    )
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("target_mm", [(1.0, 1.0, 1.0), (1.4, 0.7, 2.5)])
def test_probabilities_come_back_as_the_general_interpolation_gives_them(classes, target_mm):
    affine = stored_affine((2, 0, 1), (1, -1, -1), spacing_mm=(0.8, 2.0, 0.9), degrees=(4, 3, 0))
    native = Grid((24, 11, 20), affine)
    upright = geometry.ras_grid(native)
    probabilities = random_probabilities(
        resampling.resampled_shape(upright.shape, upright.spacing_mm, target_mm), classes
    )
    places = [
        np.arange(n) * s / t
        for n, s, t in zip(upright.shape, upright.spacing_mm, target_mm, strict=True)
    ]
    grid = np.meshgrid(*places, indexing="ij")
    expected = np.stack(
        [
            scipy.ndimage.map_coordinates(
                probabilities[..., c].astype(np.float64), grid, order=1, mode="nearest"
            )
            for c in range(classes)
        ],
        axis=-1,
    )
    found = np.zeros((*upright.shape, classes), dtype=np.float32)
    for rows, slab in resampling.restored_probabilities(probabilities, native, target_mm):
        assert not found[rows].any()
        found[rows] = slab
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0)])
def test_the_way_back_needs_at_most_two_native_volumes(axes):
    native = Grid((96, 80, 40), stored_affine(axes, (-1, -1, 1), spacing_mm=(0.7, 0.8, 2.5)))
    upright = geometry.ras_grid(native)
    shape = resampling.resampled_shape(upright.shape, upright.spacing_mm, (1, 1, 1))
    mask = np.zeros(shape, dtype=np.uint8)
    mask[5:-5, 6:-6, 7:-7] = 2
    native_float32 = 4 * 96 * 80 * 40
    tracemalloc.start()
    restored = resampling.restore_labels(mask, native, (1, 1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (restored == 2).any()
    assert peak <= 2 * native_float32


def test_probabilities_of_another_scan_are_refused():
    with pytest.raises(ValueError, match=r"probabilities has \(5, 6, 8\).*\(5, 6, 7\)"):
        next(
            resampling.restored_probabilities(
                np.zeros((5, 6, 8, 3), np.float32), Grid((5, 6, 7), np.eye(4)), (1, 1, 1)
            )
        )


@pytest.mark.parametrize("target_mm", [(1.0, 1.0, 1.0), (3.0, 3.0, 3.0), (0.6, 1.1, 2.2)])
def test_restored_against_the_general_interpolation_of_each_class(target_mm):
    native = Grid((33, 29, 21), np.diag([0.8, 0.9, 2.0, 1.0]))
    shape = resampling.resampled_shape(native.shape, native.spacing_mm, target_mm)
    middle = [n / 2 for n in shape]
    mask = ball(shape, middle, min(shape) / 2.5).astype(np.uint8)
    mask[ball(shape, [middle[0] + 1, *middle[1:]], min(shape) / 5)] = 2
    restored = resampling.restore_labels(mask, native, target_mm)
    grid = np.meshgrid(
        *(
            np.arange(n) * s / t
            for n, s, t in zip(native.shape, native.spacing_mm, target_mm, strict=True)
        ),
        indexing="ij",
    )
    shares = np.stack(
        [
            scipy.ndimage.map_coordinates(
                (mask == c).astype(np.float64), grid, order=1, mode="nearest"
            )
            for c in range(3)
        ]
    )
    ordered = np.sort(shares, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4  # equal shares are a matter of convention
    np.testing.assert_array_equal(restored[clear], shares.argmax(axis=0)[clear])
    assert clear.mean() > 0.9 and {1, 2} <= set(np.unique(restored))


def test_of_equal_shares_the_lower_class_wins():
    mask = np.array([0, 1, 1, 0], dtype=np.uint8).reshape(4, 1, 1)
    restored = resampling.restore_labels(
        mask, Grid((7, 1, 1), np.diag([1.0, 1.0, 1.0, 1.0])), (2.0, 1.0, 1.0)
    )
    assert restored.ravel().tolist() == [
        0,
        0,
        1,
        1,
        1,
        0,
        0,
    ]  # voxels 1 and 5 lie half-way between the classes


def test_a_mask_that_touches_every_border_is_restored_to_the_borders():
    native = Grid((11, 9, 6), np.diag([0.9, 1.1, 3.0, 1.0]))
    mask = np.ones(
        resampling.resampled_shape(native.shape, native.spacing_mm, (1, 1, 1)), dtype=np.uint8
    )
    assert (resampling.restore_labels(mask, native, (1, 1, 1)) == 1).all()


def test_an_empty_mask_comes_back_empty():
    native = Grid((5, 6, 7), np.eye(4))
    assert not resampling.restore_labels(
        np.zeros((5, 6, 7), dtype=np.uint8), native, (1, 1, 1)
    ).any()


def test_a_mask_of_another_scan_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 6, 8\).*\(5, 6, 7\)"):
        resampling.restore_labels(
            np.zeros((5, 6, 8), dtype=np.uint8), Grid((5, 6, 7), np.eye(4)), (1, 1, 1)
        )


def test_resampling_needs_little_more_memory_than_its_result():
    array = np.zeros((160, 160, 60), dtype=np.float32, order="F")
    tracemalloc.start()
    result = resampling.resample_linear(array, (0.8, 0.8, 2.0), (1, 1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result.nbytes + 0.1 * array.nbytes


def test_the_slabs_of_a_scan_are_its_resampled_and_windowed_voxels():
    hu = np.random.default_rng(0).integers(-300, 400, (20, 17, 9)).astype(np.int16)
    scan, target_mm = Volume(hu, np.diag([0.8, 0.8, 2.5, 1.0])), (1.0, 1.2, 2.0)
    slabs = list(resampling.windowed_slabs(scan, target_mm, (-200.0, 250.0), threads=2))
    whole = resampling.resample_linear(hu, scan.spacing_mm, target_mm)
    np.testing.assert_array_equal(
        np.concatenate(slabs), intensity.window_float16(whole, -200.0, 250.0)
    )
