import pytest

from preprocessing.layouts import dicom_folders
from tests.preprocessing.layouts.files import touch


def test_folders_are_paired_by_name(tmp_path):
    touch(tmp_path / "scans" / "p2" / "series", "1.dcm")
    touch(tmp_path / "scans" / "p1", "1.dcm")
    touch(tmp_path / "scans" / ".cache", "x")
    touch(tmp_path / "masks", "p1.nii.gz")
    cases, orphans = dicom_folders.find(tmp_path / "scans", tmp_path / "masks")
    assert [(case.case_id, case.label) for case in cases] == [
        ("p1", tmp_path / "masks/p1.nii.gz"),
        ("p2", None),
    ] and orphans == []


def test_zips_and_links_without_a_target_are_cases(tmp_path):
    touch(tmp_path / "scans", "p2.zip", "notes.txt")
    touch(tmp_path / "scans" / "p1", "1.dcm")
    (tmp_path / "scans" / "p3").symlink_to("nowhere")
    touch(tmp_path / "masks", "p2.nii.gz", "p3.nii.gz")
    cases, orphans = dicom_folders.find(tmp_path / "scans", tmp_path / "masks")
    assert [(case.case_id, case.image.name) for case in cases] == [
        ("p1", "p1"),
        ("p2", "p2.zip"),
        ("p3", "p3"),
    ] and orphans == []
    touch(tmp_path / "scans", "p1.zip")
    with pytest.raises(ValueError, match=r"scans/p1 and .*scans/p1\.zip"):
        dicom_folders.find(tmp_path / "scans", tmp_path / "masks")
