import os
import unicodedata

import pytest

from runkit import overwriting


@pytest.fixture
def scan(tmp_path):
    (tmp_path / "scans").mkdir()
    path = tmp_path / "scans" / "Müller.nii.gz"
    path.write_bytes(b"a scan")
    return path


def refused(inputs, outputs=(), folders=()):
    with pytest.raises(ValueError) as caught:
        overwriting.require_apart(
            {"--image": inputs}, {"--output": outputs}, folders={"--site_folder": folders}
        )
    return str(caught.value)


def allowed(inputs, outputs=(), folders=()):
    overwriting.require_apart(
        {"--image": inputs}, {"--output": outputs}, folders={"--site_folder": folders}
    )


def test_an_output_may_not_be_an_input_under_any_spelling(scan, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(scan.parent)
    (tmp_path / "alias.nii.gz").symlink_to(scan)
    os.link(scan, tmp_path / "hard.nii.gz")
    monkeypatch.chdir(scan.parent)
    spellings = [
        scan,
        scan.name,
        f"../scans/./{scan.name}",
        tmp_path / "link" / scan.name,
        tmp_path / "alias.nii.gz",
        tmp_path / "hard.nii.gz",
        scan.with_name("MÜLLER.NII.GZ"),
        scan.with_name(unicodedata.normalize("NFD", scan.name)),
    ]
    for output in spellings:
        text = refused([scan], [output])
        assert (
            "--output" in text
            and "--image" in text
            and str(scan) in text
            and "would replace it" in text
        )
    # the reverse: the input is given as a link, and the output is its target
    assert "would replace it" in refused([tmp_path / "alias.nii.gz"], [scan])
    assert "would replace it" in refused([tmp_path / "alias.nii.gz"], [tmp_path / "alias.nii.gz"])
    allowed([scan], [scan.with_name("mask.nii.gz"), tmp_path / "masks" / scan.name])


def test_names_that_the_disk_distinguishes_are_different_files(scan, tmp_path):
    other = tmp_path / "SCANS"
    other.mkdir(exist_ok=True)
    if os.path.samefile(other, scan.parent):
        pytest.skip("this disk does not tell capitals apart")
    allowed([scan], [other / scan.name])
    scan.with_name("müller.nii.gz").write_bytes(b"another scan")
    allowed([scan], [scan.with_name("müller.nii.gz")])


def test_no_output_lies_in_an_input_folder_or_below_an_input_file(scan, tmp_path):
    assert "lies in the input" in refused([scan.parent], [scan.parent / "masks" / "a.nii.gz"])
    assert "lies in the input" in refused([scan], [scan / "cases.csv"])
    assert "is the input" in refused([scan.parent], [], [scan.parent])
    allowed([scan.parent], [tmp_path / "scans2" / "a.nii.gz"])


def test_no_input_lies_in_a_folder_that_the_program_fills(scan, tmp_path):
    text = refused([scan], [], [tmp_path])
    assert "--site_folder" in text and "writes the folder" in text and str(scan) in text
    allowed([scan], [], [tmp_path / "cases"])


def test_outputs_that_would_replace_each_other_are_found(tmp_path):
    names = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "x" / ".." / "A.nii.gz"]
    assert overwriting.repeated(names) == [str(names[2])]
    assert overwriting.repeated([]) == []


def test_a_copy_is_kept_under_the_first_free_number(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"one")
    (tmp_path / "a.json.1").symlink_to(tmp_path / "nowhere")  # a link without a target counts
    assert overwriting.keep_copy(file) == tmp_path / "a.json.2"
    file.write_bytes(b"two")
    assert overwriting.keep_copy(str(file)) == tmp_path / "a.json.3"
    assert (tmp_path / "a.json.2").read_bytes() == b"one"
    assert (tmp_path / "a.json.3").read_bytes() == file.read_bytes() == b"two"
