"""Files that can be read to their end, and links without a target."""

import os

import pytest

from preprocessing import regular_files


def test_files_folders_and_links_to_them_can_be_read(tmp_path):
    (tmp_path / "scan").write_bytes(b"")
    (tmp_path / "link").symlink_to("scan")
    for path in (tmp_path, tmp_path / "scan", tmp_path / "link"):
        regular_files.require_readable(path)


def test_pipes_devices_and_what_is_not_there_are_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", os.devnull):
        with pytest.raises(OSError, match="a pipe or a device, not a file") as caught:
            regular_files.require_readable(path)
        assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        regular_files.require_readable(tmp_path / "gone")


def test_a_link_without_a_target_names_the_remedy_or_the_command_that_fetches_it(tmp_path):
    plain, fetched_later = tmp_path / "plain", tmp_path / "later"
    plain.symlink_to("../scans/ct.nii.gz")
    fetched_later.symlink_to("../.git/annex/objects/ab/MD5E-s1--x")
    error = regular_files.not_there(plain, "copy the file")
    assert (error.rule, error.file, error.fix) == ("F01", str(plain), "copy the file")
    assert error.problem == "is a link to ../scans/ct.nii.gz, which does not exist"
    error = regular_files.not_there(fetched_later, "copy the file")
    assert error.fix == f"datalad get {fetched_later} (or git annex get {fetched_later})"
    assert error.problem == "is a link whose content was not fetched"
