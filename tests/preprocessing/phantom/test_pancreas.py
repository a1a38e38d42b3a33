"""The labelled shapes: the requested volume, in free space, with a tumour if requested."""

import numpy as np
import pytest

from preprocessing.phantom.hospital import SITES, draw_patient
from preprocessing.phantom.pancreas import paint_pancreas
from preprocessing.phantom.space import Canvas, Pose, Space
from runkit.randomness import generator

SPACING_MM = 2.5


def paint(site, seed, *, taken=None):
    """Returns patient, canvas and shapes in an otherwise empty abdomen."""
    patient = draw_patient(SITES[site], generator(seed, "patient"))
    space = Space((-130, -40, -90), (80, 120, 90), SPACING_MM, Pose(), 0.0, generator(seed, "grid"))
    canvas = Canvas(space, patient.hu["fat"])
    if taken is not None:
        canvas.occupied[:] = taken(space)
    return patient, canvas, paint_pancreas(canvas, patient, generator(seed, "pancreas"))


def millilitres(shape):
    return np.count_nonzero(shape < 0) * SPACING_MM**3 / 1000


@pytest.mark.parametrize("site", ["C1", "C2"])
def test_the_pancreas_has_the_volume_of_its_patient_as_far_as_its_course_allows(site):
    patient, _, target = paint(site, 0)
    assert millilitres(target.pancreas) == pytest.approx(patient.pancreas_ml, rel=0.2)


def test_only_patients_of_a_hospital_with_tumours_have_one_and_it_touches_the_pancreas():
    assert paint("C1", 1)[2].tumour is None
    _, canvas, target = paint("C2", 1)
    assert 2 < millilitres(target.tumour) < 70
    assert np.count_nonzero((target.tumour < 0) & (target.pancreas < 2.0)) > 0
    # later organs keep out of both
    taken = canvas.occupied[target.box]
    assert (taken <= np.minimum(target.pancreas, target.tumour)).all()


def test_hu_of_the_pancreas_are_the_patients():
    patient, canvas, target = paint("C1", 2)
    inner = canvas.hu[target.box][target.pancreas < -SPACING_MM]
    assert np.median(inner) == pytest.approx(patient.hu["pancreas"], abs=5.0)


def test_the_pancreas_stays_out_of_organs_that_are_there():
    _, _, free = paint("C1", 3)
    patient, canvas, target = paint("C1", 3, taken=lambda space: np.abs(space.x + 60.0) - 8.0)
    x = canvas.space.x[target.box]
    assert np.abs(x[target.pancreas < 0] + 60.0).min() > 8.0
    x = canvas.space.x[free.box]
    assert np.abs(x[free.pancreas < 0] + 60.0).min() < 2.0 and patient.site.name == "C1"
