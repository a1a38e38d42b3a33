"""The trunk: its size for a patient, its contents, and nested surfaces."""

import numpy as np
import pytest

from preprocessing.phantom.hospital import SITES, draw_patient
from preprocessing.phantom.space import Canvas, Pose, Space
from preprocessing.phantom.torso import paint_torso
from runkit.randomness import generator

SPACING_MM = 4.0


@pytest.fixture(scope="module", params=["C1", "C2"])
def painted(request):
    """A patient of each hospital on an undeformed grid: patient, canvas, surfaces."""
    patient = draw_patient(SITES[request.param], generator(2, request.param))
    space = Space((-200, -120, -80), (200, 200, 120), SPACING_MM, Pose(), 0.0, generator(3, "grid"))
    canvas = Canvas(space, -1000.0)
    return patient, canvas, paint_torso(canvas, patient, generator(4, "torso"))


def test_the_trunk_is_as_wide_and_deep_as_its_patient(painted):
    patient, canvas, torso = painted
    space = canvas.space
    level = np.argmin(np.abs(space.z[0, 0] - 10.0))  # where the waist is neither wide nor narrow
    inside = torso.body[:, :, level] < 0
    x, y = space.x[:, 0, 0], space.y[0, :, 0]
    assert np.ptp(x[inside.any(axis=1)]) == pytest.approx(2 * patient.width_mm, abs=2 * SPACING_MM)
    assert np.ptp(y[inside.any(axis=0)]) == pytest.approx(2 * patient.depth_mm, abs=3 * SPACING_MM)


def test_the_cavity_lies_within_the_body_behind_fat_and_muscle(painted):
    patient, _, torso = painted
    inside = torso.cavity < 0
    assert inside.any() and torso.body[inside].max() < -0.5 * patient.skin_fat_mm
    assert np.count_nonzero(inside) < 0.8 * np.count_nonzero(torso.body < 0)


def test_lungs_lie_above_the_dome_and_air_outside_the_body(painted):
    _, canvas, torso = painted
    inside = torso.body < -6.0
    lung = inside & (canvas.hu < -700)
    assert np.count_nonzero(lung) * SPACING_MM**3 > 1e5  # more than 100 ml within the scan
    assert torso.dome[lung].min() > 0 and canvas.space.z[lung].min() > 0
    outside = canvas.hu[torso.body > 40.0]
    assert np.median(outside) == -1000.0


def test_the_spine_is_bone_around_a_canal(painted):
    patient, canvas, _ = painted
    space = canvas.space
    column = np.hypot(space.x, space.y) < 12.0
    assert np.mean(canvas.hu[column] > 100) > 0.5
    canal = np.hypot(space.x, space.y + 26.0) < 4.0
    assert np.median(canvas.hu[canal]) < 60 < patient.hu["marrow"]
