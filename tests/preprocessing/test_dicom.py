import dataclasses

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_rescale

from preprocessing import dicom, dicom_header, geometry
from preprocessing.rules import IntegrityError
from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import SECONDARY_CAPTURE, blank, enhanced, save, slices

AFFINE = np.array(
    [[-0.7, 0, 0, 90.5], [0, -0.7, 0, 120.25], [0, 0, 2.5, -30.0], [0, 0, 0, 1.0]]
)  # as scanners write: LPS


def ct(shape=(10, 12, 7), affine=AFFINE):
    return Volume(np.random.default_rng(3).integers(-1000, 1500, shape).astype(np.int16), affine)


def oblique():
    affine = AFFINE.copy()
    turn = nibabel.eulerangles.euler2mat(0.1, 0.2, 0.3)
    affine[:3, :3] = turn @ AFFINE[:3, :3]
    return affine


def sagittal():
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 3.0], [-0.8, 0, 0], [0, -0.8, 0]])
    return affine


def refused(folder, **changes):
    with pytest.raises(IntegrityError) as caught:
        dicom.read_series(folder, **changes)
    assert str(folder) in caught.value.file
    return caught.value


@pytest.mark.parametrize(
    "affine", [AFFINE, oblique(), sagittal()], ids=["axial", "oblique", "sagittal"]
)
def test_a_series_is_the_volume_it_was_made_of(tmp_path, affine):
    save(tmp_path, slices(ct(affine=affine)))
    found = dicom.read_series(tmp_path)
    assert found.array.dtype == np.int16 and found.array.flags.f_contiguous
    # whichever end the slices' normal makes the first: in the patient the volumes are the same
    one, other = geometry.to_ras(found), geometry.to_ras(ct(affine=affine))
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)


def test_order_comes_from_positions_not_from_numbers_or_names(tmp_path):
    made = slices(ct())
    for number, ds in zip([4, 1, 7, 2, 6, 3, 5], made, strict=True):
        ds.InstanceNumber = number
    save(tmp_path, made, name=lambda i: f"{9 - i}")  # and no suffix
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array, ct().array)


def test_an_enhanced_multi_frame_file(tmp_path):
    save(tmp_path, [enhanced(ct())])
    found = dicom.read_series(tmp_path)
    np.testing.assert_array_equal(found.array, ct().array)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)


def test_localizers_screenshots_and_other_files_are_left_out(tmp_path):
    save(tmp_path / "a" / "b", slices(ct()))
    localizer, capture, other = (blank(f"1.2.3.{i}", number=1, rows=4, columns=4) for i in range(3))
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    capture.SOPClassUID, other.Modality = SECONDARY_CAPTURE, "SR"
    save(tmp_path / "more", [localizer, capture, other])
    (tmp_path / "LICENSE").write_text("terms")
    (tmp_path / "._1-001.dcm").write_bytes(b"\x00\x05\x16\x07")
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array, ct().array)


def test_of_several_series_one_is_named(tmp_path):
    other = dataclasses.replace(ct(), array=ct().array[::-1].copy())
    save(tmp_path / "one", slices(ct(), series="1.2.3"))
    save(tmp_path / "two", slices(other, series="1.2.4"))
    error = refused(tmp_path)
    assert (
        error.rule == "D02"
        and "1.2.3 (7 slices)" in str(error)
        and "1.2.4 (7 slices)" in str(error)
    )
    np.testing.assert_array_equal(dicom.read_series(tmp_path, "1.2.4").array, other.array)
    assert "no CT series 9.9" in str(refused(tmp_path, series="9.9"))


def test_without_pydicom_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_header, "pydicom", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[dicom\]'"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_slices_of_real_scanners(tmp_path, name):
    """Headers as scanners and archives write them.

    The codestream and the header of the last one disagree on the sign of its pixels.
    """
    made = []
    for k in range(3):
        ds = pydicom.dcmread(get_testdata_file(name))
        normal = np.cross(*np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float))
        ds.ImagePositionPatient = [
            f"{v:.6f}"
            for v in np.array(ds.ImagePositionPatient, float)
            + 5.0 * k * normal / np.linalg.norm(normal)
        ]
        ds.SOPInstanceUID = f"1.2.3.{k}"
        made.append(ds)
    for k, ds in enumerate(made):
        ds.save_as(tmp_path / f"{k}.dcm")
    found = dicom.read_series(tmp_path)
    expected = apply_rescale(made[0].pixel_array, made[0])
    if "PixelPaddingValue" in made[0]:
        expected[made[0].pixel_array == made[0].PixelPaddingValue] = -1024
    for k in range(3):
        np.testing.assert_allclose(found.array[:, :, k].T, expected, atol=0.01)
    assert found.spacing_mm == pytest.approx((*map(float, made[0].PixelSpacing[::-1]), 5.0))
    assert abs(np.median(found.array[found.array > -900])) < 300  # a patient, on HU's scale
