import itertools

import nibabel
import numpy as np
import pytest

from preprocessing import geometry
from preprocessing.volume import Grid, Volume

ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]  # the 48 ways to store a volume


def rotation(degrees):
    x, y, z = np.deg2rad(degrees)
    around_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    around_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    around_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return around_z @ around_y @ around_x


def stored_affine(axes, signs, spacing_mm=(0.7, 0.9, 2.5), degrees=(0, 0, 0)):
    """Affine of an array whose axis i runs along patient axis axes[i]."""
    affine = np.eye(4)
    for array_axis, (patient_axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[:3, array_axis] = rotation(degrees)[:, patient_axis] * sign * spacing_mm[array_axis]
    affine[:3, 3] = (-12.5, 33.0, 101.25)
    return affine


@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -7, 20)])
def test_all_48_orientations_agree_with_nibabel_and_come_back(degrees):
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    for axes, signs in ORIENTATIONS:
        affine = stored_affine(axes, signs, degrees=degrees)
        upright = geometry.to_ras(Volume(array, affine))
        expected = nibabel.as_closest_canonical(nibabel.Nifti1Image(array.astype(np.int16), affine))
        np.testing.assert_array_equal(upright.array, np.asarray(expected.dataobj))
        np.testing.assert_allclose(upright.affine, expected.affine, atol=1e-12)
        grid = geometry.ras_grid(Grid(array.shape, affine))
        assert grid.shape == upright.shape
        np.testing.assert_array_equal(grid.affine, upright.affine)
        np.testing.assert_array_equal(
            geometry.from_ras(upright.array, Grid(array.shape, affine)), array
        )


def test_every_voxel_stays_at_its_place_in_the_patient():
    affine = stored_affine((2, 0, 1), (-1, 1, -1), degrees=(5, 8, -3))
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    upright = geometry.to_ras(Volume(array, affine))
    for index in np.ndindex(*upright.shape):
        stored = np.argwhere(array == upright.array[index])[0]
        np.testing.assert_allclose(upright.affine @ [*index, 1], affine @ [*stored, 1], atol=1e-9)
    assert np.diag(upright.affine)[:3].min() > 0


def test_to_ras_copies_nothing():
    array = np.zeros((4, 5, 6), dtype=np.float32)
    assert np.shares_memory(
        geometry.to_ras(Volume(array, np.diag([-1.0, -1.0, 3.0, 1.0]))).array, array
    )


def test_an_axis_at_45_degrees_is_left_in_place():
    affine = np.eye(4)
    affine[:3, :3] = rotation((0, 0, 45))
    assert geometry.turn_to_ras(affine).axes == (0, 1, 2)


def test_an_axis_without_direction_is_refused():
    with pytest.raises(ValueError, match="no direction"):
        geometry.turn_to_ras(np.diag([1.0, 0.0, 1.0, 1.0]))


def test_corner_displacement_by_hand():
    one = Grid((11, 21, 5), np.diag([1.0, 1.0, 2.0, 1.0]))
    shifted = one.affine.copy()
    shifted[:3, 3] = (3.0, 4.0, 0.0)
    assert geometry.corner_displacement_mm(one, Grid(one.shape, shifted)) == pytest.approx(5.0)
    wider = np.diag([1.0, 1.1, 2.0, 1.0])
    assert geometry.corner_displacement_mm(one, Grid(one.shape, wider)) == pytest.approx(
        2.0
    )  # 20 voxels of 0.1 mm more


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "ipl"])
def test_an_affine_of_axes_runs_where_its_letters_say(axes):
    shape, spacing = (5, 7, 4), (0.5, 2.0, 3.0)
    affine = geometry.affine_of_axes(axes, shape, spacing)
    assert nibabel.aff2axcodes(affine) == tuple(axes.upper())
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), spacing)
    np.testing.assert_allclose(affine @ [2, 3, 1.5, 1], [0, 0, 0, 1], atol=1e-12)  # its middle


@pytest.mark.parametrize("axes", ["", "RA", "RAL", "XYZ", "RRS", "RASL"])
def test_axes_that_do_not_name_each_direction_once_are_refused(axes):
    with pytest.raises(ValueError, match="one of R and L"):
        geometry.affine_of_axes(axes, (2, 2, 2), (1, 1, 1))


def test_a_volume_without_a_place_takes_that_of_the_other_and_keeps_its_axes():
    scan = Volume(
        np.arange(60).reshape(3, 4, 5),
        np.array([[-2.0, 0, 0, 9], [0, 3, 0, 7], [0, 0, 1, -5], [0, 0, 0, 1]]),
    )
    stored = scan.array[::-1].transpose(2, 1, 0)  # the same patient, axes S, A, R
    label = Volume(stored, geometry.affine_of_axes("SAR", stored.shape, (1, 3, 2)), placed=False)
    moved = geometry.at_place_of(label, scan)
    assert moved.placed and moved.array is stored
    np.testing.assert_allclose(geometry.to_ras(moved).affine, geometry.to_ras(scan).affine)
    np.testing.assert_array_equal(geometry.to_ras(moved).array, geometry.to_ras(scan).array)
    assert geometry.at_place_of(scan, scan) is scan
    other = Volume(stored, geometry.affine_of_axes("SAR", stored.shape, (1, 3, 2.5)), placed=False)
    assert geometry.at_place_of(other, scan) is other  # another spacing: not the same grid
