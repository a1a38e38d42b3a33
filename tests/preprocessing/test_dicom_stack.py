import copy

import numpy as np
import pytest

from preprocessing import dicom
from preprocessing.case_list import Case
from preprocessing.checks import survey
from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import SECONDARY_CAPTURE, enhanced, save, slices
from tests.preprocessing.test_dicom import ct
from tests.preprocessing.test_dicom_folder import AFFINE, CT, MEMBERS, chosen, refused, written


def test_the_position_of_a_missing_slice_is_reported(tmp_path):
    made = slices(ct())
    save(tmp_path, made[:3] + made[5:])
    error = refused(tmp_path)
    assert (
        error.rule == "D04" and "2 missing" in str(error) and "-25.00 mm" in str(error)
    )  # after the third: -30 + 2 * 2.5


def test_tilted_slices_are_refused_with_their_angle(tmp_path):
    made = slices(ct())
    for k, ds in enumerate(made):
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, f"{float(y) + k * 2.5 * np.tan(np.deg2rad(12)):.6f}", z]
    save(tmp_path, made)
    error = refused(tmp_path)
    assert error.rule == "D06" and "12.0 degrees" in str(error)


def test_positions_rounded_to_a_tenth_are_even_enough(tmp_path):
    affine = AFFINE.copy()
    affine[2, 2] = 0.625
    made = slices(ct(affine=affine))
    for ds in made:
        ds.ImagePositionPatient = [f"{float(v):.1f}" for v in ds.ImagePositionPatient]
    save(tmp_path, made)
    assert dicom.read_series(tmp_path).spacing_mm[2] == pytest.approx(0.625, abs=0.02)


@pytest.mark.parametrize("kind", ["MR", "LOCALIZER", "secondary capture"])
@pytest.mark.parametrize("where", MEMBERS)
def test_a_slice_marked_as_something_else_is_not_dropped(tmp_path, kind, where):
    def change(made):
        one = chosen(made, where)
        if kind == "MR":
            one.Modality = "MR"
        elif kind == "LOCALIZER":
            one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        else:
            one.SOPClassUID = SECONDARY_CAPTURE
        return made

    files = written(tmp_path / "ct", change=change)
    error = refused(tmp_path / "ct")
    assert (
        error.rule == "D03"
        and error.file == str(chosen(files, where))
        and f"marked as {kind}".lower() in str(error).lower()
    )


def test_a_localizer_of_the_series_that_lies_across_it_is_left_out(tmp_path):
    def change(made):
        across = slices(Volume(CT.array, AFFINE[:, [2, 1, 0, 3]]))[0]  # sagittal
        across.ImageType, across.InstanceNumber = ["ORIGINAL", "PRIMARY", "LOCALIZER"], 99
        return [*made, across]

    written(tmp_path / "ct", change=change)
    np.testing.assert_array_equal(dicom.read_series(tmp_path / "ct").array, CT.array)


def without(*numbers):
    return lambda made: [ds for ds in made if ds.InstanceNumber not in numbers]


@pytest.mark.parametrize(
    ("numbers", "said"), [((1, 2), "without 1, 2: 2 slices"), ((1,), "without 1: 1 slices")]
)
def test_slices_that_are_missing_at_the_beginning_are_a_warning(tmp_path, numbers, said):
    written(tmp_path / "ct", change=without(*numbers))
    (warning,) = dicom.read_series(tmp_path / "ct").warnings
    assert warning.rule == "D14" and said in str(warning)


def test_a_gap_in_the_numbers_of_an_even_stack_is_a_warning_that_reaches_the_check(tmp_path):
    def change(made):
        for ds in made[6:]:
            ds.InstanceNumber += 2
        return made

    written(tmp_path / "ct", change=change)
    (warning,) = dicom.read_series(tmp_path / "ct").warnings
    assert warning.rule == "D14" and "without 7, 8" in str(warning)
    assert "D14" in [
        problem.rule for problem in survey.look_at(Case("a", tmp_path / "ct", None)).problems
    ]


def test_an_acquisition_with_more_images_gives_a_warning(tmp_path):
    def change(made):
        for ds in made:
            ds.ImagesInAcquisition = 12
        return made

    written(tmp_path / "ct", change=change)
    (warning,) = dicom.read_series(tmp_path / "ct").warnings
    assert warning.rule == "D14" and "9 slices of the 12" in str(warning)


def test_numbers_that_begin_above_1_or_are_absent_give_no_warning(tmp_path):
    def later(made):
        for ds in made:
            ds.InstanceNumber += 200
        return made

    def absent(made):
        for ds in made:
            del ds.InstanceNumber
        return made

    for name, change in (("later", later), ("absent", absent)):
        written(tmp_path / name, change=change)
        assert dicom.read_series(tmp_path / name).warnings == ()


def parts(counts, *, concatenated):
    """Returns a multi-frame image of a CT, split into files with the given numbers of frames.

    The files are a concatenation, or separate images.
    """
    whole, found, begin = enhanced(CT), [], 0
    size = len(whole.PixelData) // whole.NumberOfFrames
    for number, count in enumerate(counts, start=1):
        part = copy.deepcopy(whole)
        part.SOPInstanceUID, part.InstanceNumber, part.NumberOfFrames = (
            f"1.2.7.{number}",
            number,
            count,
        )
        part.PerFrameFunctionalGroupsSequence = whole.PerFrameFunctionalGroupsSequence[
            begin : begin + count
        ]
        part.PixelData = whole.PixelData[begin * size : (begin + count) * size]
        if concatenated:
            part.ConcatenationUID, part.InConcatenationNumber, part.InConcatenationTotalNumber = (
                "1.2.8",
                number,
                len(counts),
            )
        found.append(part)
        begin += count
    return found


def test_an_image_in_several_files_is_complete_or_its_missing_files_are_counted(tmp_path):
    slices_there = CT.shape[2]
    made = parts([slices_there - 5, 3, 2], concatenated=True)
    save(tmp_path / "whole", made)
    np.testing.assert_array_equal(dicom.read_series(tmp_path / "whole").array, CT.array)
    for name, kept in (("first", made[1:]), ("last", made[:2])):
        save(tmp_path / name, kept)
        error = refused(tmp_path / name)
        assert (
            error.rule == "D04"
            and "2 of the 3 files of one image (concatenation), "
            f"without {1 if name == 'first' else 3}"
            in str(error)
        )


def test_a_multi_frame_file_that_is_absent_from_the_numbers_is_a_warning(tmp_path):
    made = parts([3, CT.shape[2] - 3], concatenated=False)
    save(tmp_path / "both", made)
    assert dicom.read_series(tmp_path / "both").warnings == ()
    made[1].InstanceNumber = 3
    save(tmp_path / "gap", made)
    (warning,) = dicom.read_series(tmp_path / "gap").warnings
    assert warning.rule == "D14" and "run from 1 to 3 without 2: 1 files may be missing" in str(
        warning
    )


def test_one_file_of_a_series_is_answered_with_its_folder(tmp_path):
    save(tmp_path, slices(ct()))
    file = sorted(path for path in tmp_path.iterdir() if path.is_file())[0]
    error = refused(file)
    assert error.rule == "G04" and "give the folder that holds all slices" in str(error)
    save(tmp_path / "alone", slices(ct())[:1])
    assert "export the whole series" in str(refused(tmp_path / "alone"))
