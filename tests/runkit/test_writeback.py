"""Early writing to disk, and that nothing depends on it."""

import os
import sys

import pytest

from runkit import writeback


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_a_range_of_an_open_file_is_accepted_and_its_bytes_kept(tmp_path):
    with open(tmp_path / "file", "wb", buffering=0) as stream:
        stream.write(bytes(range(256)) * 64)
        assert writeback.begin(stream.fileno(), 4096, 8192)
    assert (tmp_path / "file").read_bytes() == bytes(range(256)) * 64


def test_a_file_that_cannot_be_flushed_is_not_an_error(tmp_path):
    reading, writing = os.pipe()
    try:
        assert not writeback.begin(writing, 0, 1)
    finally:
        os.close(reading)
        os.close(writing)


def test_nothing_happens_without_the_system_call(monkeypatch):
    monkeypatch.setattr(writeback, "_sync_file_range", None)
    assert not writeback.begin(0, 0, 1)
