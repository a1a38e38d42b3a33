import os
import signal
import subprocess
import sys

import pytest

from runkit import folder_lock, private

HOLDS = (
    "import sys, threading; from runkit import folder_lock; "
    "folder_lock.hold(sys.argv[1], shared='shared' in sys.argv); "
    "print('held', flush=True); threading.Event().wait()"
)


@pytest.fixture
def elsewhere():
    """A function that starts a process that locks a folder, and returns it once it is locked."""
    started = []

    def hold(folder, *how):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(folder), *how], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_with_the_id_of_the_first(elsewhere, tmp_path):
    first = elsewhere(tmp_path)
    with pytest.raises(
        folder_lock.FolderInUse,
        match=rf"{tmp_path} is in use by process {first.pid} \(.*\); wait until it ends",
    ):
        folder_lock.hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_releases_its_lock(elsewhere, tmp_path):
    first = elsewhere(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    folder_lock.hold(tmp_path).close()


def test_readers_can_share_a_folder_but_a_writer_cannot(elsewhere, tmp_path):
    elsewhere(tmp_path, "shared")
    folder_lock.hold(tmp_path, shared=True).close()
    with pytest.raises(folder_lock.FolderInUse):
        folder_lock.hold(tmp_path)


def test_a_lock_holds_within_one_process_and_ends_with_the_block(tmp_path):
    with (
        folder_lock.hold(tmp_path),
        pytest.raises(folder_lock.FolderInUse, match=f"process {os.getpid()} "),
    ):
        folder_lock.hold(tmp_path)
    folder_lock.hold(tmp_path).close()


def test_a_folder_without_write_permission_can_be_locked(elsewhere, tmp_path):
    tmp_path.chmod(0o500)
    try:
        first = elsewhere(tmp_path)
        with pytest.raises(folder_lock.FolderInUse, match=f"process {first.pid} "):
            folder_lock.hold(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_is_locked_where_folders_cannot_be(tmp_path, monkeypatch):
    lock = folder_lock.fcntl.flock

    def of_files(descriptor, how):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(9, "Bad file descriptor")  # as NFS says
        lock(descriptor, how)

    monkeypatch.setattr(folder_lock.fcntl, "flock", of_files)
    private.folder(tmp_path)
    with (
        folder_lock.hold(tmp_path),
        pytest.raises(folder_lock.FolderInUse, match=f"process {os.getpid()} "),
    ):
        folder_lock.hold(tmp_path)


def test_work_continues_with_a_warning_where_locks_are_not_supported(tmp_path, monkeypatch, caplog):
    def never(descriptor, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", never)
    with caplog.at_level("WARNING"), folder_lock.hold(tmp_path), folder_lock.hold(tmp_path):
        assert "event=not_locked" in caplog.text
