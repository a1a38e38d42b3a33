import pathlib
import unicodedata

import pytest

from preprocessing import names
from preprocessing.case_list import Case

MUELLER = unicodedata.normalize("NFC", "Müller_1")


def test_a_stem_is_the_name_without_its_suffix_however_it_is_written(tmp_path, monkeypatch):
    for path in ("a/scan.nii.gz", "scan.nii", "B/scan.NII.GZ", "scan.Nii", "scan"):
        assert names.stem(path) == "scan"
    assert names.stem("a.pancreas.nii.gz") == "a.pancreas" and names.stem("scan.gz") == "scan.gz"
    assert names.stem(unicodedata.normalize("NFD", MUELLER) + ".nii.gz") == MUELLER
    (tmp_path / "series 7").mkdir()
    monkeypatch.chdir(tmp_path / "series 7")
    assert (
        names.stem(".") == names.stem("") == names.stem("../series 7/.") == "series 7"
        and names.stem("..") == tmp_path.name
    )
    assert names.stem("/") == "scan"


def test_niftis_are_found_by_any_suffix_and_macos_files_are_not(tmp_path):
    for name in ("b.NII.GZ", "a.nii.gz", "c d.nii", "._a.nii.gz", "notes.txt", "a.nii.gz.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in names.nifti_files(tmp_path)] == [
        "a.nii.gz",
        "b.NII.GZ",
        "c d.nii",
    ]


def test_two_files_of_one_stem_are_both_named():
    files = [
        pathlib.Path(name)
        for name in ("ct/a.nii", "ct/a.nii.gz", "ct/b_0000.nii.gz", "ct/b.nii.gz", "ct/c.nii.gz")
    ]
    with pytest.raises(
        ValueError, match=r"ct/a\.nii and ct/a\.nii\.gz; ct/b_0000\.nii\.gz and ct/b\.nii\.gz;"
    ) as caught:
        names.by_stem(files, without="_0000")
    assert "c.nii" not in str(caught.value)
    decomposed = [
        pathlib.Path(unicodedata.normalize(form, MUELLER) + ".nii.gz") for form in ("NFC", "NFD")
    ]
    with pytest.raises(ValueError, match="same name"):
        names.by_stem(decomposed)


def test_every_name_becomes_a_distinct_case_id():
    given = [
        "p1",
        "Case 01",
        "scan (1)",
        MUELLER,
        "-01",
        "пациент1",
        "пациент2",
        "()",
        "a b",
        "a+b",
        "a_b",
        "x\udcfc1",
    ]
    ids = names.case_ids(given)
    assert [ids[name] for name in given[:5]] == ["p1", "Case_01", "scan_1", "Muller_1", "01"]
    assert ids["a_b"] == "a_b" and ids["a b"].startswith("a_b-")
    assert len(set(ids.values())) == len(given)
    for case_id in ids.values():
        Case(case_id, pathlib.Path("x.nii.gz"), None)
    # whatever else is in the folder, a name keeps its id
    assert names.case_ids(["пациент2", "Case 01"]) == {
        "пациент2": ids["пациент2"],
        "Case 01": "Case_01",
    }
