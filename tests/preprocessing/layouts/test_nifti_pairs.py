import unicodedata

import pytest

from preprocessing.layouts import nifti_pairs
from tests.preprocessing.layouts.files import touch


def test_files_are_paired_by_name(tmp_path):
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    touch(images, "b_0000.nii.gz", "a.nii", "c.nii.gz", "._a.nii", "notes.txt")
    touch(labels, "a.nii.gz", "b.nii.gz", "d.nii.gz", "._b.nii.gz")
    cases, orphans = nifti_pairs.find(images, labels)
    assert [(case.case_id, case.image, case.label) for case in cases] == [
        ("a", images / "a.nii", labels / "a.nii.gz"),
        ("b", images / "b_0000.nii.gz", labels / "b.nii.gz"),
        ("c", images / "c.nii.gz", None),
    ]
    assert orphans == ["d"]


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*\.nii\.gz"):
        nifti_pairs.find(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        nifti_pairs.find(tmp_path / "nowhere", tmp_path)


def test_irregular_names_are_paired_and_become_case_ids(tmp_path):
    images, labels = tmp_path / "ct", tmp_path / "masks"
    decomposed = unicodedata.normalize("NFD", "Müller 1.nii.gz")
    touch(images, decomposed, "B.NII.GZ")
    touch(labels, unicodedata.normalize("NFC", decomposed), "B.nii.gz")
    cases, orphans = nifti_pairs.find(images, labels)
    assert [(case.case_id, case.image.name) for case in cases] == [
        ("B", "B.NII.GZ"),
        ("Muller_1", decomposed),
    ]
    assert all(case.label is not None for case in cases) and orphans == []


def test_two_files_of_one_name_are_named(tmp_path):
    touch(tmp_path / "ct", "b.nii.gz", "b_0000.nii.gz")
    touch(tmp_path / "masks", "b.nii.gz")
    with pytest.raises(ValueError, match=r"b\.nii\.gz and .*b_0000\.nii\.gz"):
        nifti_pairs.find(tmp_path / "ct", tmp_path / "masks")
