"""Two phases in one series are separated; blocks that follow one another are one stack."""

import numpy as np
import pytest

from preprocessing import dicom
from preprocessing.rules import IntegrityError
from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import enhanced, save, slices

AFFINE = np.array([[-0.7, 0, 0, 90.5], [0, -0.7, 0, 120.25], [0, 0, 2.5, -30.0], [0, 0, 0, 1.0]])
FIRST = Volume(np.random.default_rng(3).integers(-1000, 1500, (10, 12, 8)).astype(np.int16), AFFINE)
SECOND = FIRST.array + np.int16(40)


def passes(folder, shift_mm, mark, *, back=False):
    """Writes two phases, the second moved along z; `mark` says of a slice which phase it is of."""
    affine = AFFINE.copy()
    affine[2, 3] += shift_mm
    one, two = slices(FIRST), slices(Volume(SECOND, affine))
    if back:  # the table comes back
        two = two[::-1]
    for phase, made in enumerate((one, two), start=1):
        for number, ds in enumerate(made):
            ds.InstanceNumber = (phase - 1) * len(one) + number + 1
            mark(ds, phase, number)
    save(folder, [*one, *two])


def number(ds, phase, _):
    ds.AcquisitionNumber = phase


def time(ds, phase, _):
    ds.AcquisitionNumber, ds.AcquisitionTime = 1, f"1010{phase}0.5"


def nothing(ds, phase, _):
    pass


def time_of_each(ds, phase, number):
    ds.AcquisitionTime = f"1010{phase}{number}"


MARKS = {"number": number, "time": time, "time of each slice": time_of_each, "no mark": nothing}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("shift_mm", [0.0, 1.25, 0.6, 5.0])
def test_phases_that_overlap_are_named_and_each_can_be_chosen(tmp_path, shift_mm, mark):
    passes(tmp_path, shift_mm, MARKS[mark])
    with pytest.raises(IntegrityError) as caught:
        dicom.read_series(tmp_path)
    text = str(caught.value)
    assert (
        caught.value.rule == "D13"
        and "#1 (8 slices" in text
        and "#2 (8 slices" in text
        and "series" in caught.value.fix
    )
    if mark == "time":
        assert "at 101010.5" in text and "at 101020.5" in text
    for chosen, expected in (("#1", FIRST.array), ("1.2.826.0.1.1#2", SECOND)):
        np.testing.assert_array_equal(dicom.read_series(tmp_path, chosen).array, expected)
    assert dicom.read_series(tmp_path, "#2").affine[2, 3] == pytest.approx(-30.0 + shift_mm)
    with pytest.raises(IntegrityError, match=r"holds no acquisition 3, but #1.*D13"):
        dicom.read_series(tmp_path, "#3")


SETTINGS = {
    "AcquisitionDateTime": ("20200101101010", "20200101101520"),
    "TemporalPositionIdentifier": ("1", "2"),
    "KVP": ("80", "140"),
    "ConvolutionKernel": ("B30f", "B70f"),
    "ImageType": (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "PRIMARY", "AXIAL"]),
    "FrameOfReferenceUID": ("1.2.3", "1.2.4"),
    "StudyInstanceUID": ("1.2.5", "1.2.6"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_reconstructions_whose_numbers_alternate_are_told_by_what_differs(tmp_path, name):
    def mark(ds, phase, number):
        ds.InstanceNumber = 2 * number + phase
        setattr(ds, name, SETTINGS[name][phase - 1])

    passes(tmp_path, 1.25, mark)
    with pytest.raises(IntegrityError, match=r"#1 \(8 slices.*#2 \(8 slices.*D13"):
        dicom.read_series(tmp_path)
    found = [dicom.read_series(tmp_path, chosen).array for chosen in ("#1", "#2")]
    assert any(np.array_equal(array, FIRST.array) for array in found) and any(
        np.array_equal(array, SECOND) for array in found
    )
    assert dicom.read_series(tmp_path, "#all").shape[2] == 16


def test_a_setting_that_changes_between_blocks_leaves_one_stack(tmp_path):
    made = slices(FIRST)
    for k, ds in enumerate(made):
        ds.KVP, ds.AcquisitionDateTime = "100" if k < 5 else "120", f"202001011010{k:02d}"
    save(tmp_path, made)
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array, FIRST.array)


def test_a_table_that_comes_back_is_two_passes(tmp_path):
    passes(tmp_path, 1.25, nothing, back=True)
    np.testing.assert_array_equal(dicom.read_series(tmp_path, "#2").array, SECOND)


def test_blocks_that_follow_each_other_are_one_stack(tmp_path):
    made = slices(FIRST)
    for k, ds in enumerate(made):
        ds.AcquisitionNumber, ds.AcquisitionTime = 1 + k // 3, f"10101{k // 3}"
    save(tmp_path / "ct", made)
    np.testing.assert_array_equal(dicom.read_series(tmp_path / "ct").array, FIRST.array)
    assert dicom.read_series(tmp_path / "ct", "#2").shape[2] == 3


def test_an_acquisition_for_each_slice_is_one_stack(tmp_path):
    made = slices(FIRST)
    for k, ds in enumerate(made):
        ds.AcquisitionNumber, ds.AcquisitionTime = k, f"1010{k}0"
    save(tmp_path, made)
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array, FIRST.array)


def test_all_reads_interleaved_acquisitions_as_one(tmp_path):
    made = slices(FIRST)
    for k, ds in enumerate(made):
        ds.AcquisitionNumber = 1 + k % 2
    save(tmp_path, made)
    with pytest.raises(IntegrityError, match="D13"):
        dicom.read_series(tmp_path)
    np.testing.assert_array_equal(dicom.read_series(tmp_path, "#all").array, FIRST.array)


def test_a_copy_of_a_slice_or_of_the_series_is_not_an_acquisition(tmp_path):
    save(tmp_path / "one", slices(FIRST))
    copied = sorted((tmp_path / "one").iterdir())[3]
    copied.with_name("copy (1).dcm").write_bytes(copied.read_bytes())
    save(tmp_path / "all" / "a", slices(FIRST))
    save(tmp_path / "all" / "b", slices(FIRST))
    for name in ("one", "all"):
        with pytest.raises(IntegrityError, match="D05"):
            dicom.read_series(tmp_path / name)


def test_frames_of_two_stacks_that_alternate(tmp_path):
    affine = AFFINE.copy()
    affine[2, 2] /= 2
    both = np.stack([FIRST.array, SECOND], axis=-1).reshape(10, 12, 16)
    made = enhanced(Volume(both, affine))
    for k, frame in enumerate(made.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence = [type(frame)()]
        frame.FrameContentSequence[0].StackID = "AB"[k % 2]
    save(tmp_path, [made])
    with pytest.raises(IntegrityError, match=r"#1 \(8 slices.*#2 \(8 slices.*D13"):
        dicom.read_series(tmp_path)
    np.testing.assert_array_equal(
        dicom.read_series(tmp_path, "#2").array, FIRST.array
    )  # frames run from last to first


def test_frames_of_two_acquisitions_in_one_file(tmp_path):
    made = enhanced(
        Volume(np.concatenate([FIRST.array, SECOND], axis=2), AFFINE)
    )  # its frames run from last to first
    for k, frame in enumerate(made.PerFrameFunctionalGroupsSequence):
        phase, place = divmod(15 - k, 8)
        frame.PlanePositionSequence[0].ImagePositionPatient = slices(FIRST)[
            place
        ].ImagePositionPatient
        frame.FrameContentSequence = [type(frame)()]
        frame.FrameContentSequence[0].FrameAcquisitionNumber = phase + 1
    save(tmp_path, [made])
    with pytest.raises(IntegrityError, match="D13"):
        dicom.read_series(tmp_path)
    np.testing.assert_array_equal(dicom.read_series(tmp_path, "#2").array, SECOND)
