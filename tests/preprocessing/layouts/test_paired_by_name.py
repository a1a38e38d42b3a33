"""Scans and labels paired by name."""

import pytest

from preprocessing.layouts.paired_by_name import paired_by_name
from tests.preprocessing.layouts.files import touch


def test_scans_take_the_label_of_their_name_in_the_order_of_names(tmp_path):
    touch(tmp_path, "b.nii.gz", "z.nii")
    scans = {"c d": tmp_path / "series 1", "b": tmp_path / "series 2"}
    cases, orphans = paired_by_name(scans, tmp_path, tmp_path / "scans", "series")
    assert [(case.case_id, case.image, case.label) for case in cases] == [
        ("b", scans["b"], tmp_path / "b.nii.gz"),
        ("c_d", scans["c d"], None),
    ]
    assert orphans == ["z"]


def test_no_scan_and_two_labels_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scans: holds no \*\.dcm; give the folder that holds"):
        paired_by_name({}, tmp_path, tmp_path / "scans", "*.dcm")
    touch(tmp_path, "b.nii.gz", "b.nii")
    with pytest.raises(ValueError, match=r"b\.nii.* and .*b\.nii"):
        paired_by_name({"b": tmp_path / "b"}, tmp_path, tmp_path / "scans", "*.dcm")
