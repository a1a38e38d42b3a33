"""Implicit shapes against closed forms."""

import numpy as np
import pytest

from preprocessing.phantom.space import (
    REACH_MM,
    Canvas,
    Pose,
    Space,
    ellipsoid,
    smooth_union,
    spline,
    tube,
)
from runkit.randomness import generator


def space(*, pose=None, deformation_mm=0.0, spacing_mm=2.0):
    return Space(
        (-60, -50, -40),
        (60, 50, 40),
        spacing_mm,
        pose or Pose(),
        deformation_mm,
        generator(3, "space"),
    )


def test_an_undeformed_unposed_patient_lies_on_the_scanner_grid():
    grid = space()
    assert grid.shape == (61, 51, 41)
    np.testing.assert_allclose(grid.x[:, 7, 9], np.arange(-60, 61, 2), atol=1e-4)
    np.testing.assert_allclose(grid.z[5, 6, :], np.arange(-40, 41, 2), atol=1e-4)


def test_patient_coordinates_undo_the_pose():
    pose = Pose(rotation_deg=20.0, size=1.1, shift_mm=(4.0, -3.0, 2.0))
    grid = space(pose=pose)
    turn = np.deg2rad(20.0)
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, 1.0]]
    )
    place = [axis[40, 12, 9] for axis in (grid.x, grid.y, grid.z)]
    np.testing.assert_allclose(
        1.1 * rotation @ place + (4.0, -3.0, 2.0), [-60 + 80, -50 + 24, -40 + 18], atol=1e-3
    )


def test_a_quarter_turn_takes_right_to_front():
    grid = space(pose=Pose(rotation_deg=90.0))
    assert grid.x[30, 35, 20] == pytest.approx(20.0, abs=1e-4)  # 20 mm to the scanner's front
    assert grid.y[30, 35, 20] == pytest.approx(0.0, abs=1e-4)


def test_the_distance_to_a_sphere_is_exact():
    grid = space()
    box, distance = ellipsoid(grid, (5.0, -3.0, 2.0), (12.0, 12.0, 12.0))
    x, y, z = grid.at(box)
    np.testing.assert_allclose(
        distance, np.sqrt((x - 5) ** 2 + (y + 3) ** 2 + (z - 2) ** 2) - 12.0, atol=2e-3
    )


def test_a_turned_ellipsoid_has_a_turned_long_axis():
    grid = space()
    _, distance = ellipsoid(
        grid, (0.0, 0.0, 0.0), (30.0, 8.0, 8.0), turn_deg=90.0, within=grid.whole()
    )
    front = distance[30, 25 + 14, 20]  # 28 mm to the front
    side = distance[30 + 14, 25, 20]  # 28 mm to the right
    assert front < 0 < side
    assert side == pytest.approx(20.0, abs=0.1)  # 28 - 8 mm along a short axis


def test_the_distance_to_a_straight_tube_of_varying_radius():
    grid = space()
    box, distance = tube(grid, np.array([[-20.0, 0.0, 0.0, 4.0], [20.0, 0.0, 0.0, 12.0]]))
    whole = np.full(grid.shape, np.inf)
    whole[box] = distance
    # at the middle the radius is (4 + 12) / 2
    assert whole[30, 25, 20] == pytest.approx(-8.0, abs=1e-4)
    assert whole[30, 25 + 6, 20] == pytest.approx(12.0 - 8.0, abs=1e-4)
    # 10 mm beyond the thick end
    assert whole[30 + 15, 25, 20] == pytest.approx(10.0 - 12.0, abs=1e-4)
    assert distance.max() <= REACH_MM


def test_a_flattened_tube_is_thinner_from_front_to_back():
    grid = space()
    box, distance = tube(
        grid, np.array([[-20.0, 0, 0, 10.0], [20.0, 0, 0, 10.0]]), stretch=(1.0, 0.5, 1.0)
    )
    extent = [np.ptp(axis[box][distance < 0]) for axis in (grid.y, grid.z)]
    assert extent[0] == pytest.approx(extent[1] / 2, abs=2.0)


def test_the_box_of_a_tube_contains_it_in_a_deformed_patient():
    grid = space(deformation_mm=3.0, pose=Pose(rotation_deg=15.0))
    path = np.array([[-20.0, 5, 3, 6.0], [18.0, -9, -8, 8.0]])
    _, distance = tube(grid, path)
    _, everywhere = tube(grid, path, within=grid.whole())
    assert np.count_nonzero(everywhere < 0) == np.count_nonzero(distance < 0) > 500


def test_a_spline_passes_through_its_points_and_carries_the_radius():
    points = [[0, 0, 0, 3], [10, 5, 0, 4], [20, 0, 5, 6]]
    path = spline(points, 201)
    for point in points:
        assert np.abs(path - point).sum(axis=1).min() < 0.2
    np.testing.assert_allclose(path[[0, -1]], np.array(points)[[0, -1]], atol=1e-9)


def test_lumps_have_zero_mean_unit_variance_and_the_given_width():
    grid = space()
    narrow, wide = (grid.lumps(width, generator(1, "lumps")) for width in (8.0, 40.0))
    for field in (narrow, wide):
        assert field.dtype == np.float32
        assert field.mean() == pytest.approx(0.0, abs=1e-4)
        assert field.std() == pytest.approx(1.0, abs=1e-4)

    def roughness(field):
        return np.abs(np.diff(field, axis=0)).mean()

    assert roughness(narrow) > 3 * roughness(wide)


def test_paint_mixes_by_partial_volume_and_keeps_a_rim():
    grid = space()
    canvas = Canvas(grid, 0.0)
    plane = grid.x - 0.5  # a quarter of the voxel at 0 mm lies outside
    canvas.paint(grid.whole(), plane, 100.0, gap_mm=4.0, gap_hu=-100.0)
    np.testing.assert_allclose(
        canvas.hu[29:34, 25, 20], [100, 0.75 * 100 - 0.25 * 100, -100, -75, 0], atol=1e-3
    )
    assert canvas.occupied[30, 25, 20] == pytest.approx(-0.5)


def test_free_excludes_occupied_room():
    grid = space()
    canvas = Canvas(grid, 0.0)
    canvas.paint(grid.whole(), grid.x - 1.0, 50.0)
    ball_box, ball = ellipsoid(grid, (0.0, 0.0, 0.0), (10.0, 10.0, 10.0))
    left = canvas.free(ball_box, ball, 2.0)
    assert (grid.x[ball_box][left < 0] > 3.0 - 1e-3).all()  # 1 mm surface and 2 mm gap
    assert (left < 0).any()


def test_smooth_union_fills_the_crease_and_leaves_the_rest():
    a, b = np.array([0.0, 30.0, -5.0]), np.array([0.0, -2.0, 30.0])
    np.testing.assert_allclose(smooth_union(a, b, 8.0), [-2.0, -2.0, -5.0])  # 8 / 4 in the crease
