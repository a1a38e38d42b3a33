import pytest

from preprocessing import dicom
from preprocessing.rules import IntegrityError
from tests.preprocessing.dicom_files import enhanced, save, slices
from tests.preprocessing.test_dicom import ct
from tests.preprocessing.test_dicom_folder import CT, refused, written


@pytest.mark.parametrize("groups", [0, 8, 10])
def test_frames_and_their_groups_agree(tmp_path, groups):
    made = enhanced(CT)
    kept = list(made.PerFrameFunctionalGroupsSequence)
    made.PerFrameFunctionalGroupsSequence = (kept + kept)[:groups]
    save(tmp_path, [made], name=lambda i: "scan.dcm")
    error = refused(tmp_path)
    assert (
        error.rule == "D07"
        and f"9 frames and the functional groups of {groups}" in str(error)
        and error.file.endswith("scan.dcm")
    )


def test_an_error_of_a_frame_names_the_frame(tmp_path):
    made = enhanced(CT)
    del made.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
    save(tmp_path, [made], name=lambda i: "scan.dcm")
    assert "frame 4: has no ImagePositionPatient" in str(refused(tmp_path))


def test_another_number_of_pixels_than_declared_is_refused(tmp_path):
    for name, rows in (("fewer", 6), ("more", 24)):

        def change(made, rows=rows):
            for ds in made:
                ds.Rows = rows
            return made

        written(tmp_path / name, change=change)
        error = refused(tmp_path / name)
        assert error.rule == "D09" and "bytes of pixel data" in str(error)


@pytest.mark.parametrize("inverted", [slice(None), slice(3, 4)])
def test_pixels_that_tools_read_in_two_ways_are_refused(tmp_path, inverted):
    made = slices(ct())
    for ds in made[inverted]:
        ds.PhotometricInterpretation = "MONOCHROME1"
    save(tmp_path, made)
    with pytest.raises(
        IntegrityError, match=r"pixels of MONOCHROME1.*\[D08.*export the slices as MONOCHROME2"
    ):
        dicom.read_series(tmp_path)
