import os
import signal
import subprocess
import sys

import pytest

from runkit import folder_lock, private

HOLDS = "import sys, time; from runkit import folder_lock; folder_lock.hold(sys.argv[1], shared='shared' in sys.argv); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def elsewhere():
    """Starts a process that holds a folder; returns it once it does."""
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


def test_the_second_process_is_refused_and_told_which_the_first_is(elsewhere, tmp_path):
    first = elsewhere(tmp_path)
    with pytest.raises(
        folder_lock.FolderInUse,
        match=rf"{tmp_path} is in use by process {first.pid} \(.*\); wait until it ends, or stop it",
    ):
        folder_lock.hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_lets_go(elsewhere, tmp_path):
    first = elsewhere(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    folder_lock.hold(tmp_path).close()


def test_a_folder_may_be_shared_by_readers_and_by_nobody_else(elsewhere, tmp_path):
    elsewhere(tmp_path, "shared")
    folder_lock.hold(tmp_path, shared=True).close()
    with pytest.raises(folder_lock.FolderInUse):
        folder_lock.hold(tmp_path)


def test_in_one_process_too_and_free_again_after_the_block(tmp_path):
    with (
        folder_lock.hold(tmp_path),
        pytest.raises(folder_lock.FolderInUse, match=f"process {os.getpid()} "),
    ):
        folder_lock.hold(tmp_path)
    folder_lock.hold(tmp_path).close()


def test_a_folder_that_this_account_cannot_write_is_held_all_the_same(elsewhere, tmp_path):
    tmp_path.chmod(0o500)
    try:
        first = elsewhere(tmp_path)
        with pytest.raises(folder_lock.FolderInUse, match=f"process {first.pid} "):
            folder_lock.hold(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_where_folders_cannot_be_locked_a_file_in_them_is(tmp_path, monkeypatch):
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


def test_where_nothing_can_be_locked_the_work_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    def never(descriptor, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", never)
    with caplog.at_level("WARNING"), folder_lock.hold(tmp_path), folder_lock.hold(tmp_path):
        assert "event=not_locked" in caplog.text
