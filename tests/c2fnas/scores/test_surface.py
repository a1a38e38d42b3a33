import itertools

import numpy as np
import pytest
from scipy import ndimage

from c2fnas.scores import surface, surface_elements

SPACING = (0.7, 1.1, 2.5)


def blobs(seed, shape=(8, 7, 6)):
    """Returns two masks, smooth enough for surfaces and rough enough for every neighbourhood.

    The first one touches the border.
    """
    noise = np.random.default_rng(seed).random((2, *shape))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)
    return smooth > np.quantile(smooth, 0.6)


def border_by_loop(mask):
    points = []
    for place in np.argwhere(mask):
        for axis, step in itertools.product(range(3), (-1, 1)):
            other = place.copy()
            other[axis] += step
            if not (0 <= other[axis] < mask.shape[axis] and mask[tuple(other)]):
                points.append(place * SPACING)
                break
    return np.array(points)


def elements_by_loop(mask):
    """Returns places and areas of all 2x2x2 neighbourhoods whose voxels differ.

    They extend beyond the volume; the place is that of the first voxel.
    """
    area, padded, points, weights = surface_elements.areas(SPACING), np.pad(mask, 1), [], []
    for place in np.ndindex(*(n - 1 for n in padded.shape)):
        corners = [
            padded[tuple(np.add(place, offset))] for offset in itertools.product((0, 1), repeat=3)
        ]
        if 0 < sum(corners) < 8:
            points.append((np.array(place) - 1) * SPACING)
            weights.append(area[sum(1 << k for k, corner in enumerate(corners) if corner)])
    return np.array(points), np.array(weights)


def nearest_by_loop(points, others):
    return np.array([np.sqrt(((point - others) ** 2).sum(axis=1)).min() for point in points])


@pytest.mark.parametrize("seed", range(3))
def test_border_definition_equals_brute_force(seed):
    prediction, truth = blobs(seed)
    ours = surface.distances(
        *(surface.of_mask(mask, SPACING, "border") for mask in (prediction, truth))
    )
    points = [border_by_loop(mask) for mask in (prediction, truth)]
    there, back = nearest_by_loop(*points), nearest_by_loop(*points[::-1])
    np.testing.assert_allclose(ours.to_truth_mm, there, atol=1e-9)
    for percentile in (50, 95, 100):
        expected = max(np.percentile(there, percentile), np.percentile(back, percentile))
        assert surface.hausdorff_mm(ours, percentile) == pytest.approx(expected, abs=1e-9)
    assert surface.surface_dice(ours, 1.0) == pytest.approx(
        ((there <= 1).sum() + (back <= 1).sum()) / (len(there) + len(back)), abs=1e-9
    )


@pytest.mark.parametrize("seed", range(3))
def test_area_definition_equals_brute_force(seed):
    prediction, truth = blobs(seed)
    ours = surface.distances(
        *(surface.of_mask(mask, SPACING, "area") for mask in (prediction, truth))
    )
    (p, p_area), (t, t_area) = (elements_by_loop(mask) for mask in (prediction, truth))
    there, back = nearest_by_loop(p, t), nearest_by_loop(t, p)
    within = p_area[there <= 1].sum() + t_area[back <= 1].sum()
    assert surface.surface_dice(ours, 1.0) == pytest.approx(
        within / (p_area.sum() + t_area.sum()), abs=1e-9
    )

    def covered(
        distances, areas, share
    ):  # the smallest distance within which that share of the area lies
        return min(
            d for d in distances if areas[distances <= d].sum() >= share * areas.sum() * (1 - 1e-12)
        )

    expected = max(covered(there, p_area, 0.95), covered(back, t_area, 0.95))
    assert surface.hausdorff_mm(ours, 95) == pytest.approx(expected, abs=1e-9)


def area_mm2(mask):
    return surface.of_mask(mask, (1, 1, 1), "area").weights.sum()


def test_area_of_a_box_is_its_faces_with_bevelled_edges():
    mask = np.zeros((8, 9, 7), bool)
    mask[1:6, 2:8, :4] = True  # touches the volume's border, which does not open the surface
    # faces between outermost voxel centres, 12 bevels of sqrt(1/2), 8 corners of sqrt(3)/8
    expected = 2 * (4 * 5 + 4 * 3 + 5 * 3) + np.sqrt(0.5) * 4 * (4 + 5 + 3) + 8 * np.sqrt(3) / 8
    assert area_mm2(mask) == pytest.approx(expected)


def test_area_of_a_ball_comes_close_to_that_of_a_sphere():
    x, y, z = np.indices((41, 41, 41)) - 20
    ball = x**2 + y**2 + z**2 <= 16**2
    assert area_mm2(ball) == pytest.approx(
        4 * np.pi * 16**2, rel=0.12
    )  # marching cubes on a mask overestimate


def test_a_shift_is_measured_in_millimetres_along_its_axis():
    mask = np.zeros((12, 12, 12), bool)
    mask[2:7, 2:7, 2:7] = True
    for axis, shift in ((0, 2), (2, 1)):
        for definition in ("border", "area"):
            measured = surface.distances(
                *(
                    surface.of_mask(m, SPACING, definition)
                    for m in (np.roll(mask, shift, axis), mask)
                )
            )
            assert surface.hausdorff_mm(measured, 100) == pytest.approx(shift * SPACING[axis])
            assert surface.surface_dice(measured, shift * SPACING[axis] + 1e-9) == 1


# for most of them, multiples are not exact in binary
SPACINGS = [
    (0.4, 0.4, 0.4),
    (0.1, 0.2, 0.3),
    (0.7, 0.7, 2.5),
    (0.9, 0.6, 1.2),
    (0.8, 0.8, 1.25),
    (0.78125, 0.78125, 3.0),
    (0.3, 1.1, 0.7),
    (1.0, 1.0, 1.0),
]


def within_by_distance_transform(prediction, truth, spacing, tolerance):
    """Returns the surface Dice by area from distance transforms, as DeepMind computes it."""
    codes = []
    for mask in (prediction, truth):
        padded = np.pad(mask, 1)
        parts = [
            padded[
                tuple(
                    slice(o, n - 1 + o)
                    for o, n in zip(np.unravel_index(k, (2, 2, 2)), padded.shape, strict=True)
                )
            ]
            for k in range(8)
        ]
        codes.append(sum(part.astype(int) << k for k, part in enumerate(parts)))
    area = surface_elements.areas(spacing)
    surfaces = [(code != 0) & (code != 255) for code in codes]
    near = 0.0
    for own, other, code in (
        (surfaces[0], surfaces[1], codes[0]),
        (surfaces[1], surfaces[0], codes[1]),
    ):
        distance = ndimage.distance_transform_edt(~other, sampling=spacing)
        near += area[code[own & (distance <= tolerance)]].sum()
    return near / sum(area[code[own]].sum() for own, code in zip(surfaces, codes, strict=True))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_dice_is_the_same_at_every_offset_in_the_array(spacing):
    grid, size = 6, 12
    truth, prediction = np.zeros((2, size, size, size), bool)
    truth[0:3, 1:4, 0:3] = True
    prediction[5:8, 1:4, 0:3] = True  # five voxels along x, the distance of two of their faces
    prediction[0:3, 4:7, 8:10] = True  # and three and four voxels away along y and z
    tolerances = (
        5 * spacing[0],
        round(5 * spacing[0], 4),
        float(np.hypot(3 * spacing[1], 4 * spacing[2])),
        2.0,
        0.5,
    )
    expected = [
        within_by_distance_transform(prediction, truth, spacing, tolerance)
        for tolerance in tolerances
    ]
    assert len(set(expected)) > 1
    for offset in itertools.product(range(grid), repeat=3):
        where = tuple(slice(start, start + size) for start in offset)
        masks = np.zeros((2, *(size + grid,) * 3), bool)
        masks[(slice(None), *where)] = prediction, truth
        measured = surface.distances(*(surface.of_mask(mask, spacing, "area") for mask in masks))
        assert [
            surface.surface_dice(measured, tolerance) for tolerance in tolerances
        ] == pytest.approx(expected, abs=1e-12), offset


@pytest.mark.parametrize("start", range(20))
def test_a_box_shifted_by_five_voxels_of_04_mm_lies_within_2_mm(start):
    truth = np.zeros((40, 8, 8), bool)
    truth[start : start + 10, 2:6, 2:6] = True
    for definition in ("border", "area"):
        measured = surface.distances(
            *(
                surface.of_mask(mask, (0.4, 0.4, 0.4), definition)
                for mask in (np.roll(truth, 5, 0), truth)
            )
        )
        assert surface.surface_dice(measured, 2.0) == 1.0
        assert surface.hausdorff_mm(measured, 100) == 2.0


def test_of_two_equally_far_points_the_one_that_rounds_below_the_tolerance_counts():
    # 3 x 0.1 mm is a little more than 0.3 in floating point, 1 x 0.3 mm is not. To the tree both
    # are equally near.
    spacing = (0.1, 0.2, 0.3)
    one = surface.Surface(np.zeros((1, 3), dtype=np.int64), np.ones(1), "border", spacing)
    for places in ([(3, 0, 0), (0, 0, 1)], [(0, 0, 1), (3, 0, 0)]):
        two = surface.Surface(np.array(places), np.ones(2), "border", spacing)
        assert surface.surface_dice(surface.distances(one, two), 0.3) == pytest.approx(
            2 / 3
        )  # of two points one is too far


def test_surfaces_that_cannot_be_measured_are_refused():
    mask = np.ones((2, 2, 2), bool)
    border, area, empty = (
        surface.of_mask(m, SPACING, d)
        for m, d in ((mask, "border"), (mask, "area"), (~mask, "border"))
    )
    assert len(empty.weights) == 0
    with pytest.raises(ValueError, match="border and area"):
        surface.distances(border, area)
    with pytest.raises(ValueError, match=r"of \(1.0, 1.0, 1.0\) and \(0.7, 1.1, 2.5\) mm"):
        surface.distances(surface.of_mask(mask, (1, 1, 1), "border"), border)
    with pytest.raises(ValueError, match="no points"):
        surface.distances(border, empty)
    with pytest.raises(ValueError, match="'mesh'"):
        surface.of_mask(mask, SPACING, "mesh")
    with pytest.raises(ValueError, match="tolerance_mm is -1"):
        surface.surface_dice(surface.distances(border, border), -1)
