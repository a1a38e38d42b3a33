import dataclasses
import hashlib
import os
import threading

import pytest

from preprocessing import dicom_header, nifti, sources
from preprocessing.case_list import Case, CaseManifest
from preprocessing.checks import survey
from preprocessing.rules import IntegrityError


def made(tmp_path, *names):
    (tmp_path / "series").mkdir()
    for i, name in enumerate(names):
        (tmp_path / "series" / name).write_bytes(bytes([i]) * 9)
    (tmp_path / "label.nii.gz").write_bytes(b"label")
    return Case("a", tmp_path / "series", tmp_path / "label.nii.gz")


def test_a_case_is_identified_by_the_content_of_its_files(tmp_path):
    case = made(tmp_path, "1.dcm", "2.dcm", "3.dcm")
    before = sources.digests(case)
    assert before["label"] == hashlib.sha256(b"label").hexdigest() and set(before) == {
        "image",
        "label",
    }
    (tmp_path / "series" / "1.dcm").rename(tmp_path / "series" / "first.dcm")
    (tmp_path / "series" / "._2.dcm").write_bytes(b"what macOS leaves")
    assert sources.digests(case) == before  # another copy of the same scan
    (tmp_path / "series" / "2.dcm").write_bytes(b"other pixels")
    assert sources.digests(case)["image"] != before["image"]


def test_settings_of_the_manifest_are_part_of_the_digests(tmp_path):
    case = made(tmp_path, "1.dcm")
    plain = sources.digests(case)
    for changes in ({"series": "1.2.3"}, {"label_turn": "+x-y+z"}, {"accept": ("C05", "C06")}):
        assert sources.digests(dataclasses.replace(case, **changes)) != plain


def test_a_missing_file_is_named(tmp_path):
    case = made(tmp_path, "1.dcm")
    case.label.unlink()
    with pytest.raises(IntegrityError, match=r"label\.nii\.gz.*F01"):
        sources.digests(case)


def test_a_reader_that_is_not_installed_is_reported_before_the_work(tmp_path, monkeypatch):
    case = made(tmp_path, "1.dcm")
    monkeypatch.setattr(dicom_header, "pydicom", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[dicom\]'"):
        sources.require_readers(CaseManifest("C1", (case,)))
    sources.require_readers(
        CaseManifest("C1", (dataclasses.replace(case, image=tmp_path / "ct.nii.gz"),))
    )  # NIfTI needs none


@pytest.mark.parametrize("name", ["pipe", "pipe.nii.gz", "pipe.dcm", "loop", "loop.nii.gz"])
def test_a_pipe_or_device_is_refused_without_waiting(tmp_path, name):
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(name)
    found = []
    # a thread, so that a reader that waits ends with the tests
    thread = threading.Thread(
        target=lambda: found.append(survey.look_at(Case("a", tmp_path / name, None))), daemon=True
    )
    thread.start()
    thread.join(60)
    assert [(error.rule, error.file) for error in found[0].errors] == [
        ("F01", str(tmp_path / name))
    ]
    with pytest.raises(IntegrityError, match=f"{name}: cannot be read"):
        nifti.read_labels(tmp_path / name)
