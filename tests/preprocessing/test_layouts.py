import unicodedata

import pytest

from preprocessing import layouts


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_files_are_paired_by_name(tmp_path):
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    touch(images, "b_0000.nii.gz", "a.nii", "c.nii.gz", "._a.nii", "notes.txt")
    touch(labels, "a.nii.gz", "b.nii.gz", "d.nii.gz", "._b.nii.gz")
    cases, orphans = layouts.nifti_pairs(images, labels)
    assert [(case.case_id, case.image, case.label) for case in cases] == [
        ("a", images / "a.nii", labels / "a.nii.gz"),
        ("b", images / "b_0000.nii.gz", labels / "b.nii.gz"),
        ("c", images / "c.nii.gz", None),
    ]
    assert orphans == ["d"]


def test_folders_are_paired_by_name(tmp_path):
    touch(tmp_path / "scans" / "p2" / "series", "1.dcm")
    touch(tmp_path / "scans" / "p1", "1.dcm")
    touch(tmp_path / "scans" / ".cache", "x")
    touch(tmp_path / "masks", "p1.nii.gz")
    cases, orphans = layouts.dicom_folders(tmp_path / "scans", tmp_path / "masks")
    assert [(case.case_id, case.label) for case in cases] == [
        ("p1", tmp_path / "masks/p1.nii.gz"),
        ("p2", None),
    ] and orphans == []


def test_zips_and_links_whose_target_is_not_there_are_cases(tmp_path):
    touch(tmp_path / "scans", "p2.zip", "notes.txt")
    touch(tmp_path / "scans" / "p1", "1.dcm")
    (tmp_path / "scans" / "p3").symlink_to("nowhere")
    touch(tmp_path / "masks", "p2.nii.gz", "p3.nii.gz")
    cases, orphans = layouts.dicom_folders(tmp_path / "scans", tmp_path / "masks")
    assert [(case.case_id, case.image.name) for case in cases] == [
        ("p1", "p1"),
        ("p2", "p2.zip"),
        ("p3", "p3"),
    ] and orphans == []
    touch(tmp_path / "scans", "p1.zip")
    with pytest.raises(ValueError, match=r"scans/p1 and .*scans/p1\.zip"):
        layouts.dicom_folders(tmp_path / "scans", tmp_path / "masks")


def found(folder, **changes):
    return [path.relative_to(folder).as_posix() for path in layouts.scans_in(folder, **changes)]


def test_a_folder_of_scans_is_its_files_zips_and_folders_whatever_else_lies_there(tmp_path):
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


def test_a_link_whose_target_is_not_there_is_the_scan_that_it_should_be(tmp_path):
    touch(tmp_path / "p1", "1.dcm")
    for name in ("a.nii.gz", "c.zip", "p2", "index.html"):
        (tmp_path / name).symlink_to("nowhere")
    assert found(tmp_path) == ["a.nii.gz", "c.zip", "p1", "p2"]


def test_a_folder_with_slices_is_a_series_also_where_none_of_them_arrived(tmp_path):
    for name in ("1.dcm", "IM0001", "1.2.840.7"):
        touch(tmp_path / name, name)
        touch(tmp_path / name / "more", "2.dcm")
        assert found(tmp_path / name) == ["."]
    touch(tmp_path / "empty")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "IM0001").symlink_to("nowhere")
    assert found(tmp_path / "empty") == found(tmp_path / "links") == ["."]
    assert layouts.scans_in(tmp_path / "1.dcm" / "1.dcm") == [tmp_path / "1.dcm" / "1.dcm"]


def test_loose_slices_among_nifti_scans_are_not_dropped(tmp_path):
    touch(tmp_path, "a.nii.gz", "1.dcm", "2.dcm")
    with pytest.raises(ValueError, match=r"loose among them 2 DICOM files, e\.g\. 1\.dcm"):
        layouts.scans_in(tmp_path)


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*\.nii\.gz"):
        layouts.nifti_pairs(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        layouts.nifti_pairs(tmp_path / "nowhere", tmp_path)


def test_names_as_they_come_are_paired_and_become_case_ids(tmp_path):
    images, labels = tmp_path / "ct", tmp_path / "masks"
    decomposed = unicodedata.normalize("NFD", "Müller 1.nii.gz")
    touch(images, decomposed, "B.NII.GZ")
    touch(labels, unicodedata.normalize("NFC", decomposed), "B.nii.gz")
    cases, orphans = layouts.nifti_pairs(images, labels)
    assert [(case.case_id, case.image.name) for case in cases] == [
        ("B", "B.NII.GZ"),
        ("Muller_1", decomposed),
    ]
    assert all(case.label is not None for case in cases) and orphans == []


def test_two_files_of_one_name_are_named(tmp_path):
    touch(tmp_path / "ct", "b.nii.gz", "b_0000.nii.gz")
    touch(tmp_path / "masks", "b.nii.gz")
    with pytest.raises(ValueError, match=r"b\.nii\.gz and .*b_0000\.nii\.gz"):
        layouts.nifti_pairs(tmp_path / "ct", tmp_path / "masks")
