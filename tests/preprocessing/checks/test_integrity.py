import os
import pathlib

import numpy as np
import pytest

from preprocessing import nifti, rules
from preprocessing.checks import integrity
from preprocessing.volume import Volume

SPACING = np.diag([0.7, 0.7, 5.0, 1.0])


def pair(shape=(12, 10, 8), image_affine=SPACING, label_affine=SPACING):
    hu = np.full(shape, -1000.0, dtype=np.float32)
    hu[2:-2, 2:-2] = 50.0
    label = np.zeros(shape, dtype=np.uint8)
    label[4:6, 4:6, 3:5] = 1
    return Volume(hu, image_affine), Volume(label, label_affine)


def shifted(millimetres):
    affine = SPACING.copy()
    affine[0, 3] += millimetres
    return affine


def broken_rule(image, label):
    with pytest.raises(rules.IntegrityError) as caught:
        integrity.check_case(image, label, ("ct_9.nii.gz", "label_9.nii.gz"))
    assert caught.value.rule in {rule.id for rule in rules.RULES}
    assert caught.value.file in str(caught.value) and caught.value.fix in str(caught.value)
    return caught.value


def test_a_good_case_passes():
    integrity.check_case(*pair())


@pytest.mark.parametrize("noise_mm", [1e-8, 1e-4, 0.1])
def test_header_rounding_passes(noise_mm):
    integrity.check_case(*pair(label_affine=shifted(noise_mm)))


@pytest.mark.parametrize("shift_mm", [0.35, 0.7, 300.0])
def test_half_a_voxel_of_shift_fails_with_its_size(shift_mm):
    error = broken_rule(*pair(label_affine=shifted(shift_mm)))
    assert error.rule == "G06" and error.file == "label_9.nii.gz"
    assert f"{shift_mm:.3g} mm" in error.problem and "ct_9.nii.gz" in error.problem


def test_a_spacing_that_differs_a_little_adds_up_over_the_volume():
    affine = np.diag([0.7 * 1.05, 0.7, 5.0, 1.0])
    assert broken_rule(*pair(label_affine=affine)).rule == "G06"  # 11 voxels of 0.035 mm


def test_another_number_of_slices_fails_with_both_shapes():
    image, label = pair()
    error = broken_rule(image, Volume(label.array[:, :, :-1], label.affine))
    assert error.rule == "G05"
    assert "12 x 10 x 7" in error.problem and "12 x 10 x 8" in error.problem


@pytest.mark.parametrize("flip", [False, True])
def test_a_label_with_more_slices_blames_the_scan(flip):
    image, label = pair()
    affine = SPACING.copy()
    array = image.array[:, :, 2:]
    if flip:
        array, affine[2, 2], affine[2, 3] = array[:, :, ::-1], -5.0, 35.0
    error = broken_rule(Volume(array, affine), label)
    assert error.rule == "G05" and error.file == "ct_9.nii.gz"
    assert (
        "has 6 slices, its label label_9.nii.gz has 8: 2 of the scan did not arrive"
        in error.problem
        and "fetch the whole scan" in error.fix
    )


def test_warnings_of_the_reader_are_warnings_of_the_case():
    image, label = pair()
    unusual = rules.broken(rules.INSTANCE_GAP, "ct_9", "numbers have a gap")
    image = Volume(image.array, image.affine, warnings=(unusual,))
    assert unusual in integrity.check_case(image, label)
    assert integrity.check_scan(image, "ct_9") == [unusual]


def test_the_same_place_stored_in_another_axis_order_passes():
    image, label = pair()
    turned = SPACING[:, [2, 0, 1, 3]].copy()
    turned[:, 1] *= -1
    turned[0, 3] = 0.7 * 11
    integrity.check_case(image, Volume(label.array.transpose(2, 0, 1)[:, ::-1], turned))


@pytest.mark.parametrize("spacing", [0.001, 50.0])
def test_absurd_spacing_fails(spacing):
    affine = np.diag([0.7, 0.7, spacing, 1.0])
    error = broken_rule(*pair(image_affine=affine, label_affine=affine))
    assert error.rule == "G03" and f"{spacing:.4g} mm" in error.problem


def test_a_single_slice_fails():
    assert broken_rule(*pair(shape=(12, 10, 1))).rule == "G04"


def test_a_sheared_volume_fails_with_its_angle():
    affine = SPACING.copy()
    affine[1, 2] = 5.0 * np.tan(np.deg2rad(10))
    error = broken_rule(*pair(image_affine=affine, label_affine=affine))
    assert error.rule == "G08" and "80.00 degrees" in error.problem


def test_unusual_values_give_warnings_and_refuse_nothing():
    warnings = integrity.check_case(*pair())
    assert {warning.rule for warning in warnings} == {
        "G09",
        "L06",
    }  # 8 mm of a patient, 0.02 ml of an organ


def test_a_real_ct_passes_and_its_mirrored_label_does_not():
    folder = os.environ.get("REAL_CT_FOLDER")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip(
            "REAL_CT_FOLDER names no folder with ct.nii.gz and organs.nii.gz (7 = pancreas)"
        )
    image = nifti.read_ct(pathlib.Path(folder) / "ct.nii.gz")
    label = nifti.read_labels(pathlib.Path(folder) / "organs.nii.gz", {7: 1})
    assert integrity.check_case(image, label) == []
    for axis in range(3):
        with pytest.raises(rules.IntegrityError, match="mirrored"):
            integrity.check_case(image, Volume(np.flip(label.array, axis), label.affine))
