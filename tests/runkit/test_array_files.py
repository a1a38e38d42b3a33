import errno
import os

import numpy as np
import pytest

from runkit import array_files


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int32).reshape(4, 3),
        np.arange(12, dtype=np.float16).reshape(4, 3).T,
        np.zeros((0, 3), np.int64),
        np.array(2.5),
    ],
)
def test_it_writes_what_numpy_writes(tmp_path, array):
    array_files.save(tmp_path / "ours.npy", array)
    np.save(tmp_path / "numpys.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


@pytest.mark.parametrize("values", [10, 10_000, 1_000_000])
def test_a_full_disk_is_an_error_whatever_the_size(values):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError) as caught:
        array_files.save("/dev/full", np.zeros(values, np.int32))
    assert caught.value.errno == errno.ENOSPC


def test_a_read_that_fails_names_the_file(tmp_path, monkeypatch):
    array_files.save(tmp_path / "runs.npy", np.arange(3))

    def failing(*given, **named):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "load", failing)
    with pytest.raises(OSError, match=r"Input/output error: .*runs\.npy"):
        array_files.load(tmp_path / "runs.npy")
