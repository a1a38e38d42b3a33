"""Pixels as HU: rescaled slice by slice; outside the reconstruction they are air."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from preprocessing import dicom
from preprocessing.checks import same_scan
from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import save, slices, stored
from tests.preprocessing.test_dicom import ct
from tests.preprocessing.test_dicom_folder import refused, written

AFFINE = np.array([[-0.7, 0, 0, 90.5], [0, -0.7, 0, 120.25], [0, 0, 2.5, -30.0], [0, 0, 0, 1.0]])
CT = Volume(np.random.default_rng(3).integers(-1000, 1500, (16, 12, 5)).astype(np.int16), AFFINE)
CORNERS = np.zeros((12, 16), bool)  # rows, columns
CORNERS[:3, :4], CORNERS[-2:, -5:] = True, True


def padded(
    folder,
    value,
    representation,
    *,
    signed,
    intercept,
    limit=None,
    pixels=None,
    slope=1.0,
    inside=None,
):
    """Writes the CT with `pixels` in its corners; `inside` pixels in its middle."""
    kind = "<i2" if signed else "<u2"
    made = slices(CT, intercept=intercept, slope=slope, stored_as=kind)
    for k, ds in enumerate(made):
        plane = stored(CT.array[:, :, k], slope, intercept, kind).copy()
        plane[CORNERS] = np.array(value if pixels is None else pixels).astype(kind)
        if inside is not None:
            plane[6, 8] = inside
        ds.PixelData = plane.tobytes()
        ds.add_new("PixelPaddingValue", representation, value)
        if limit is not None:
            ds.add_new("PixelPaddingRangeLimit", representation, limit)
    save(folder, made)
    return dicom.read_series(folder)


def expected(inside=None):
    array = CT.array.copy()
    array[CORNERS.T] = -1024
    if inside is not None:
        array[8, 6] = inside
    return array


@pytest.mark.parametrize(
    ("value", "representation", "signed", "intercept"),
    [
        (-2000, "SS", True, 0.0),
        (-32768, "SS", True, 0.0),
        (63536, "US", False, -1024.0),
        (65535, "US", False, -1024.0),
        (4095, "US", False, -1024.0),
        (63536, "US", True, 0.0),  # written as unsigned: the bits of -2000
        (-2000, "SS", False, -1024.0),  # and the other way round
        (0, "US", False, -1024.0),
    ],
)
def test_padding_is_air(tmp_path, value, representation, signed, intercept):
    pixels = value % 65536 if not signed else value - 65536 if value > 32767 else value
    found = padded(
        tmp_path, value, representation, signed=signed, intercept=intercept, pixels=pixels
    )
    assert found.array.dtype == np.int16 and found.warnings == ()
    np.testing.assert_array_equal(found.array, expected())


def test_padding_is_compared_before_the_rescale(tmp_path):
    found = padded(tmp_path, 63536, "US", signed=False, intercept=-1024.0, slope=0.5)
    assert found.array.dtype == np.float32
    np.testing.assert_allclose(found.array, expected(), atol=0.25)


@pytest.mark.parametrize("limits", [(63000, 64000), (64000, 63000)])
def test_a_range_of_padding_is_air_up_to_its_limit(tmp_path, limits):
    value, limit = limits
    found = padded(
        tmp_path, value, "US", signed=False, intercept=-1024.0, limit=limit, pixels=63500
    )
    np.testing.assert_array_equal(found.array, expected())


def test_padding_of_a_value_that_tissue_has_is_air_only_at_the_border_and_a_warning(tmp_path):
    # 0 HU: water inside the patient has it as well
    found = padded(tmp_path, 0, "SS", signed=True, intercept=0.0, inside=0)
    np.testing.assert_array_equal(found.array[CORNERS.T], -1024)
    assert (found.array[8, 6] == 0).all()
    (warning,) = found.warnings
    assert warning.rule == "D15" and "PixelPaddingValue" in str(warning)


def test_a_padding_value_that_no_border_has_changes_nothing(tmp_path):
    made = slices(CT, intercept=0.0, stored_as="<i2")
    for ds in made:
        ds.add_new("PixelPaddingValue", "SS", 1499)  # a value of bone
    save(tmp_path, made)
    border = np.zeros(CT.shape[:2], bool)
    border[[0, -1]], border[:, [0, -1]] = True, True
    if (CT.array[border] == 1499).any():
        pytest.skip("the sample has the value at a border")
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array, CT.array)


def test_a_scan_is_recognised_under_another_padding():
    other = CT.array.copy()
    other[CORNERS.T] = -2000
    marks = [same_scan.slice_marks(Volume(array, AFFINE)) for array in (expected(), other)]
    assert marks[0] and marks[0] == marks[1]


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=["RLE", "JPEG2000", "JPEG-LS"]
)
def test_compressed_pixels(tmp_path, syntax):
    volume = ct((40, 36, 4))  # JPEG 2000 halves a picture five times
    save(tmp_path, slices(volume), syntax=syntax)
    assert pydicom.dcmread(next(tmp_path.iterdir())).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array, volume.array)


def test_each_slice_is_rescaled_by_itself(tmp_path):
    made = slices(ct())
    odd = slices(ct(), slope=0.5, intercept=-2000.0)[3]
    save(tmp_path, [*made[:3], odd, *made[4:]])
    found = dicom.read_series(tmp_path).array
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, ct().array, atol=0.25)


def test_signed_pixels_and_padding_below_the_scale(tmp_path):
    made = slices(ct(), intercept=0.0)
    for k, ds in enumerate(made):
        ds.PixelRepresentation = 1
        plane = ct().array[:, :, k].T.copy()
        plane[0, 0] = -2000
        ds.PixelData = plane.astype("<i2").tobytes()
    save(tmp_path, made)
    found = dicom.read_series(tmp_path).array
    assert (found[0, 0] == -2000).all()
    np.testing.assert_array_equal(found[1:], ct().array[1:])


def test_pixels_beyond_bits_stored_are_refused(tmp_path):
    def change(made):
        for ds in made:
            ds.BitsStored, ds.HighBit = 11, 10  # up to 2047, of 2523
        return made

    written(tmp_path / "ct", change=change)
    error = refused(tmp_path / "ct")
    assert error.rule == "D12" and "BitsStored is 11" in str(error)
