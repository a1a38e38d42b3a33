import os
import time

import pytest

from federated.storage.recently_verified import RecentlyVerified


@pytest.fixture
def file(tmp_path):
    """A file that was just written."""
    path = tmp_path / "update.safetensors"
    path.write_bytes(b"x" * 1000)
    written = time.time_ns() - 500_000_000
    written += written % 1_000_000_000 == 0
    os.utime(path, ns=(written, written))
    return path


def test_an_unchanged_file_stays_verified(file):
    files = RecentlyVerified()
    assert not files.holds(file)  # nobody noted it
    files.note(file)
    assert files.holds(file) and file.read_bytes() and files.holds(file)


@pytest.mark.parametrize(
    "harm", ["same size", "one byte in place", "cut", "longer", "replaced", "stamped back", "gone"]
)
def test_a_changed_file_is_verified_again(file, harm):
    files, before = RecentlyVerified(), os.stat(file)
    files.note(file)
    if harm == "same size":
        file.write_bytes(b"y" * 1000)
    elif harm == "one byte in place":
        with open(file, "r+b") as stream:
            stream.seek(500)
            stream.write(b"y")
    elif harm == "cut":
        os.truncate(file, 999)
    elif harm == "longer":
        with open(file, "ab") as stream:
            stream.write(b"y")
    elif harm in ("replaced", "stamped back"):
        other = file.with_name("other")
        other.write_bytes(b"y" * 1000)
        if harm == "stamped back":
            os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(other, file)
    else:
        file.unlink()
    assert not files.holds(file)


def test_a_minute_later_a_file_is_verified_again(file):
    now = [100.0]
    files = RecentlyVerified(clock=lambda: now[0])
    files.note(file)
    now[0] = 159.0
    assert files.holds(file)
    now[0] = 161.0
    assert not files.holds(file)


def test_a_file_whose_stamp_a_change_might_not_alter_is_not_noted(file):
    written = os.stat(file).st_mtime_ns
    within_the_tick = RecentlyVerified(now_ns=lambda: written + 500_000)
    within_the_tick.note(file)
    assert not within_the_tick.holds(file)
    os.utime(
        file, ns=(written, written // 1_000_000_000 * 1_000_000_000)
    )  # a disk that stamps whole seconds
    coarse = RecentlyVerified()
    coarse.note(file)
    assert not coarse.holds(file)


def test_a_missing_file_is_not_noted(tmp_path):
    files = RecentlyVerified()
    files.note(tmp_path / "gone")
    assert not files.holds(tmp_path / "gone")
