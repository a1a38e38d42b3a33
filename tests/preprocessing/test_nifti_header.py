import gzip
import struct

import nibabel
import numpy as np
import pytest

from preprocessing import nifti
from preprocessing.volume import Volume
from tests.preprocessing.test_nifti import AFFINE, hu, save


def test_half_of_a_pair_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(hu(), AFFINE), tmp_path / "pair.hdr")
    with pytest.raises(ValueError, match=r"pair\.hdr.*pair"):
        nifti.read_ct(tmp_path / "pair.hdr")


def test_a_singular_affine_is_refused(tmp_path):
    path = save(tmp_path / "flat.nii", hu())
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"flat\.nii.*is singular"):
        nifti.read_ct(path)


def patched(path, array, affine, *edits):
    """Saves with sform and qform and changes bytes of the header, which nibabel would correct."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype)
    image = nibabel.Nifti1Image(array, None, header)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    raw = bytearray(image.to_bytes())
    for offset, kind, *values in edits:
        struct.pack_into("<" + kind, raw, offset, *values)
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


LPS = np.array(
    [[-0.7, 0, 0, 90.5], [0, -0.8, 0, 40.0], [0, 0, 2.5, -12.0], [0, 0, 0, 1.0]]
)  # half a turn about z


NO_CODES = (252, "hh", 0, 0)


def test_a_file_without_an_orientation_is_refused_unless_one_is_given(tmp_path):
    path = patched(tmp_path / "ct.nii.gz", hu(), AFFINE, NO_CODES)
    for read in (nifti.read_ct, nifti.read_labels, nifti.stored_form):
        with pytest.raises(
            ValueError, match=r"ct\.nii\.gz: its header gives no orientation.*G01.*--orientation"
        ):
            read(path)
    volume = nifti.read_ct(path, "LPS")
    assert not volume.placed and nibabel.aff2axcodes(volume.affine) == ("L", "P", "S")
    np.testing.assert_allclose(volume.spacing_mm, (0.7, 0.8, 2.5), rtol=1e-6)
    np.testing.assert_array_equal(volume.array, hu())
    with pytest.raises(ValueError, match="orientation is 'LPX'"):
        nifti.read_ct(path, "LPX")


def test_a_file_that_has_an_orientation_is_believed(tmp_path):
    for name, edit in (("s.nii.gz", (252, "hh", 0, 1)), ("q.nii.gz", (252, "hh", 1, 0))):
        path = patched(tmp_path / name, hu(), AFFINE, edit)
        volume = nifti.read_ct(path, "LPS")
        assert volume.placed
        np.testing.assert_allclose(volume.affine, nibabel.load(path).affine)


def test_the_error_for_a_label_without_an_orientation_names_the_remedies(tmp_path):
    labels = (np.arange(210).reshape(5, 6, 7) % 3).astype(np.uint8)
    path = patched(tmp_path / "label.nii.gz", labels, AFFINE, NO_CODES)
    with pytest.raises(ValueError, match=r'G01.*--orientation.*"label_turn": "\+x\+y\+z"'):
        nifti.read_labels(path)
    np.testing.assert_array_equal(nifti.read_labels(path, ignore_place=True).array, labels)
    np.testing.assert_array_equal(nifti.read_labels(path, orientation="RAS").array, labels)


@pytest.mark.parametrize(
    "forms", [(252, "hh", 1, 0), (252, "hh", 1, 1)], ids=["qform only", "both forms"]
)
@pytest.mark.parametrize(
    ("edit", "reads"),
    [
        ((76, "f", 0.0), True),  # the standard: 0 stands for 1
        ((76, "f", 2.0), False),
        ((256, "fff", 0.0, 0.0, 1.0000004), True),
        ((256, "fff", 0.0, 0.0, 1.00002), True),
        ((256, "fff", 0.0, 0.0, 1.01), False),
        ((256, "fff", 0.0, 0.0, float("nan")), False),
        ((80, "f", -0.7), False),
    ],
)
def test_a_rounded_qform_is_read_and_a_wrong_one_is_refused(tmp_path, forms, edit, reads):
    path = patched(tmp_path / "ct.nii.gz", hu(), LPS, forms, edit)
    if reads:
        np.testing.assert_allclose(nifti.read_ct(path).affine, LPS, atol=1e-5)
    else:
        with pytest.raises(ValueError, match=r"ct\.nii\.gz.*its qform is invalid.*G01"):
            nifti.read_ct(path)


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), -1.0, 0.0, 100.0, 352.5])
def test_an_impossible_voxel_offset_is_refused(tmp_path, offset):
    with pytest.raises(ValueError, match=r"ct\.nii\.gz: its voxels begin at byte"):
        nifti.read_ct(patched(tmp_path / "ct.nii.gz", hu(), AFFINE, (108, "f", offset)))


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [(0.0, -1024.0), (float("nan"), 5.0), (1.0, float("inf")), (2.0, float("nan"))],
)
def test_a_scaling_on_which_readers_disagree_is_refused(tmp_path, slope, intercept):
    with pytest.raises(ValueError, match=r"ct\.nii\.gz: slope is .*F08"):
        nifti.read_ct(patched(tmp_path / "ct.nii.gz", hu(), AFFINE, (112, "ff", slope, intercept)))


def sheared(degrees):
    """Returns an oblique affine whose slices are stacked off their normal."""
    turn, lean = np.deg2rad(12.0), np.tan(np.deg2rad(degrees))
    row, column = (
        np.array([np.cos(turn), np.sin(turn), 0]),
        np.array([-np.sin(turn), np.cos(turn), 0]),
    )
    affine = np.eye(4)
    affine[:3, :3] = np.stack([0.7 * row, 0.7 * column, [lean, -lean, 1.0]], axis=1)
    affine[:3, 3] = [-90.0, 40.0, -300.0]
    return affine


@pytest.mark.parametrize("degrees", [0.02, 0.07, 0.1])
def test_axes_slightly_off_right_angles_are_not_two_places(tmp_path, degrees):
    labels, affine = np.zeros((4, 4, 900), np.uint8), sheared(degrees)
    labels[1, 1, 1] = 1
    nifti.write_volume(tmp_path / "own.nii", Volume(labels, affine))
    header = nibabel.Nifti1Header()
    header.set_sform(affine, code=2)
    header.set_qform(affine, code=2)
    nibabel.save(nibabel.Nifti1Image(labels, None, header), tmp_path / "other.nii")
    for name in ("own.nii", "other.nii"):
        np.testing.assert_allclose(nifti.read_labels(tmp_path / name).affine, affine, atol=1e-4)


@pytest.mark.parametrize("degrees", [0.0, 0.1])
def test_another_place_in_the_qform_is_refused_whatever_the_angles(tmp_path, degrees):
    affine = sheared(degrees)
    moved = affine.copy()
    moved[0, 3] += 0.5  # of a voxel of 0.7 mm
    header = nibabel.Nifti1Header()
    header.set_sform(affine, code=2)
    header.set_qform(moved, code=2)
    path = tmp_path / "ct.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 900), np.uint8), None, header), path)
    with pytest.raises(ValueError, match=r"ct\.nii: its sform and qform place a corner .*G07"):
        nifti.read_labels(path)
