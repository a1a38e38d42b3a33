import errno
import os

import pytest

from runkit import durable, private


def test_a_folder_whose_sync_fails_is_named(tmp_path, monkeypatch):
    synced, original = [], os.fsync

    def failing_at_the_folder(descriptor):
        synced.append(descriptor)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", failing_at_the_folder)
    with pytest.raises(OSError) as caught:
        private.make(tmp_path / "new")
    assert caught.value.filename == str(tmp_path)


def test_the_very_folder_is_synced_and_closed(tmp_path, monkeypatch):
    synced = []

    def noting(descriptor):
        synced.append((descriptor, os.fstat(descriptor).st_ino))

    monkeypatch.setattr(os, "fsync", noting)
    durable.sync_directory(tmp_path)
    ((descriptor, inode),) = synced
    assert inode == tmp_path.stat().st_ino
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_folder_that_is_not_there_is_an_error_and_one_that_cannot_be_opened_is_none(
    tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        durable.sync_directory(tmp_path / "nowhere")

    def closed(*given):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), *given[:1])

    monkeypatch.setattr(os, "open", closed)  # as on Windows
    durable.sync_directory(tmp_path)
