"""Voxels of a scan and its label: HU, empty or huge labels, places that no organ has."""

import numpy as np
import pytest

from preprocessing import rules
from preprocessing.checks import integrity
from preprocessing.volume import Volume
from tests.preprocessing.checks.test_integrity import broken_rule, pair


def test_an_empty_label_fails():
    image, label = pair()
    assert broken_rule(image, Volume(np.zeros_like(label.array), label.affine)).rule == "L03"


@pytest.mark.parametrize(
    "change",
    [lambda hu: np.maximum(hu, 0), lambda hu: np.full_like(hu, -1024), lambda hu: (hu > 0) * 1.0],
)
def test_values_that_are_not_hounsfield_units_fail(change):
    image, label = pair()
    error = broken_rule(Volume(change(image.array), image.affine), label)
    assert error.rule == "C01" and error.file == "ct_9.nii.gz"


def test_a_rule_may_be_accepted_by_its_id():
    image, label = pair((30, 28, 12))
    lungs = Volume(np.where(label.array > 0, -700, image.array).astype(np.float32), image.affine)
    assert broken_rule(lungs, label).rule == "C04"
    with pytest.raises(rules.IntegrityError) as caught:
        integrity.check_case(lungs, label, accepted=("C04",))
    assert caught.value.rule == "C05"  # the next one
    integrity.check_case(lungs, label, accepted=("C04", "C05"))
