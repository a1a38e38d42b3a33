"""Organs around the pancreas: sides, brightness, gas above fluid, and space for each other."""

import numpy as np
import pytest

from preprocessing.phantom import viscera
from preprocessing.phantom.hospital import SITES, draw_patient
from preprocessing.phantom.space import Canvas, Pose, Space, ellipsoid
from preprocessing.phantom.torso import Torso
from runkit.randomness import generator

FAT_HU = -100.0


def empty_canvas(seed=5):
    space = Space((-150, -80, -110), (150, 150, 110), 4.0, Pose(), 0.0, generator(seed, "grid"))
    return Canvas(space, FAT_HU)


def everywhere(canvas):
    """Surfaces that leave all of the grid to the organs."""
    wide = np.full(canvas.space.shape, -60.0, np.float32)
    return Torso(body=wide, cavity=wide, dome=wide)


@pytest.fixture(scope="module")
def patient():
    return draw_patient(SITES["C1"], generator(6, "patient"))


def test_liver_and_spleen_lie_on_their_sides_and_have_their_patients_hu(patient):
    canvas = empty_canvas()
    viscera.paint_liver_and_spleen(canvas, patient, everywhere(canvas), generator(7, "liver"))
    right, left = canvas.space.x > 40, canvas.space.x < -70
    inner = canvas.occupied < -6
    assert np.median(canvas.hu[inner & right]) == pytest.approx(patient.hu["liver"], abs=4.0)
    assert np.median(canvas.hu[inner & left]) == pytest.approx(patient.hu["spleen"], abs=4.0)
    # in ml; an adult liver has about 1500, a spleen about 200
    liver, spleen = (
        np.count_nonzero((canvas.occupied < 0) & side) * 0.064 for side in (right, left)
    )
    assert 600 < liver < 2500 and 100 < spleen < 500


def test_an_organ_keeps_out_of_the_room_of_an_earlier_one(patient):
    canvas = empty_canvas()
    canvas.occupied[:] = 60.0 - canvas.space.x  # everything at x > 60 is taken
    before = canvas.hu.copy()
    viscera.paint_liver_and_spleen(canvas, patient, everywhere(canvas), generator(7, "liver"))
    taken = canvas.space.x > 60 + canvas.space.spacing_mm
    assert (canvas.hu[taken] == before[taken]).all() and (canvas.hu != before).any()


def test_gas_lies_in_front_of_the_fluid_within_the_wall():
    canvas = empty_canvas()
    box, distance = ellipsoid(canvas.space, (0, 40, 0), (40, 40, 40))
    viscera.paint_hollow(
        canvas, box, distance, wall_mm=8.0, wall_hu=80.0, content_hu=20.0, gas_from_y=50.0,
        gap_hu=FAT_HU,
    )  # fmt: skip
    hu, y = canvas.hu[box], canvas.space.y[box]
    lumen = distance < -8.0 - canvas.space.spacing_mm
    assert (hu[lumen & (y < 46)] == 20.0).all() and (hu[lumen & (y > 54)] == -960.0).all()
    assert (hu[np.abs(distance + 4.0) < 1.5] > 20.0).all()  # the wall
    assert (canvas.hu[canvas.occupied > 10.0] == FAT_HU).all()


@pytest.mark.parametrize("filled", [True, False])
def test_the_stomach_is_large_where_patients_drank_and_collapsed_where_not(filled):
    site = SITES["C1" if filled else "C2"]
    volumes = []
    for seed in range(2):
        canvas = empty_canvas(seed)
        drawn = draw_patient(site, generator(seed, "patient"))
        viscera.paint_stomach(canvas, drawn, everywhere(canvas), generator(seed, "stomach"))
        volumes.append(np.count_nonzero(canvas.occupied < 0) * 0.064)
    assert min(volumes) > 400 if filled else max(volumes) < 400


def test_the_aorta_is_on_the_left_and_the_cava_on_the_right(patient):
    canvas = empty_canvas()
    viscera.paint_great_vessels(canvas, patient, generator(8, "vessels"))
    at = (np.abs(canvas.space.z + 60) < 4) & (canvas.occupied < -3)
    for side, vessel in ((-9.0, "aorta"), (21.0, "cava")):
        near = at & (np.abs(canvas.space.x - side) < 8) & (np.abs(canvas.space.y - 30) < 8)
        assert np.median(canvas.hu[near]) == pytest.approx(patient.hu[vessel], abs=12)


def test_points_move_by_the_spread_and_radii_by_a_few_per_cent():
    points = np.tile([10.0, 20.0, 30.0, 5.0], (4000, 1))
    moved = viscera.jittered(points, 2.0, generator(9, "points"))
    np.testing.assert_allclose(moved[:, :3].mean(axis=0), [10, 20, 30], atol=0.15)
    np.testing.assert_allclose(moved[:, :3].std(axis=0), 2.0, rtol=0.05)
    assert np.abs(moved[:, 3] / 5.0 - 1.0).max() <= 0.12 + 1e-9
    assert (points == [10.0, 20.0, 30.0, 5.0]).all()  # the argument stays


def test_the_distance_to_the_liver_is_far_outside_its_box():
    box = (slice(2, 5), slice(0, 4), slice(1, 3))
    liver = np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)
    spot = (slice(4, 7), slice(3, 6), slice(0, 2))
    found = viscera.liver_within(liver, box, spot)
    expected = np.full((3, 3, 2), 60.0)
    expected[0, 0, 1] = liver[2, 3, 0]  # the only voxel that both hold: (4, 3, 1)
    np.testing.assert_array_equal(found, expected)
    apart = viscera.liver_within(liver, box, (slice(8, 9), slice(0, 1), slice(0, 1)))
    assert (apart == 60.0).all()
