import pytest

from preprocessing import scan_folder
from tests.preprocessing.layouts.files import touch


def found(folder, **changes):
    return [path.relative_to(folder).as_posix() for path in scan_folder.scans_in(folder, **changes)]


def test_a_folder_stands_for_its_nifti_files_zips_and_folders(tmp_path):
    touch(
        tmp_path, "a.nii.gz", "B.NII", "c.zip", "Thumbs.db", "README.txt", "list 1.csv", ".DS_Store"
    )
    touch(tmp_path / "p1", "1.dcm")
    touch(tmp_path / "masks", "a.nii.gz")
    assert found(tmp_path, leave_out=tmp_path / "p1/../masks") == [
        "B.NII",
        "a.nii.gz",
        "c.zip",
        "p1",
    ]
    for name in ("a.nii.gz", "B.NII"):
        (tmp_path / name).unlink()
    assert found(tmp_path, leave_out=tmp_path / "masks") == ["c.zip", "p1"]


def test_a_link_without_a_target_counts_as_a_scan(tmp_path):
    touch(tmp_path / "p1", "1.dcm")
    for name in ("a.nii.gz", "c.zip", "p2", "index.html"):
        (tmp_path / name).symlink_to("nowhere")
    assert found(tmp_path) == ["a.nii.gz", "c.zip", "p1", "p2"]


def test_a_folder_with_slices_is_a_series_even_if_all_of_them_are_damaged(tmp_path):
    for name in ("1.dcm", "IM0001", "1.2.840.7"):
        touch(tmp_path / name, name)
        touch(tmp_path / name / "more", "2.dcm")
        assert found(tmp_path / name) == ["."]
    touch(tmp_path / "empty")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "IM0001").symlink_to("nowhere")
    assert found(tmp_path / "empty") == found(tmp_path / "links") == ["."]
    assert scan_folder.scans_in(tmp_path / "1.dcm" / "1.dcm") == [tmp_path / "1.dcm" / "1.dcm"]


def test_loose_slices_among_nifti_scans_are_not_dropped(tmp_path):
    touch(tmp_path, "a.nii.gz", "1.dcm", "2.dcm")
    with pytest.raises(ValueError, match=r"beside them, 2 DICOM files, e\.g\. 1\.dcm"):
        scan_folder.scans_in(tmp_path)
