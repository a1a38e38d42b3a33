import errno
import json
import os
import pathlib

import pytest

from runkit import atomic


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    target = tmp_path / "state.json"
    atomic.write_json(target, {"round": 1})
    with pytest.raises(RuntimeError), atomic.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert json.loads(target.read_text()) == {"round": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_a_failed_folder_leaves_the_old_folder(tmp_path):
    target = tmp_path / "case"
    with atomic.replacing_folder(target) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic.replacing_folder(target) as temporary:
        (temporary / "a").write_text("new")
        raise RuntimeError("killed")
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


def test_the_temporary_name_keeps_the_suffixes(tmp_path):
    with atomic.replacing(tmp_path / "scan.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz") and temporary.name.startswith(".")
        temporary.write_bytes(b"x")
    assert (tmp_path / "scan.nii.gz").read_bytes() == b"x"


def test_nan_is_refused_and_broken_json_names_the_file(tmp_path):
    with pytest.raises(ValueError):
        atomic.write_json(tmp_path / "x.json", {"dice": float("nan")})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json: not valid JSON"):
        atomic.read_json(tmp_path / "broken.json")


def test_a_full_disk_names_the_file_that_could_not_be_written(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device: .*result\.json"),
        atomic.replacing(tmp_path / "result.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write does, without a name
    assert not list(tmp_path.iterdir())


def test_an_error_about_a_full_disk_has_the_final_name_and_the_size(tmp_path, monkeypatch):
    def full(*given, **named):
        raise OSError(
            errno.ENOSPC,
            "No space left on device",
            *([os.fspath(tmp_path / ".partial-x")] if given and "made" in str(given) else []),
        )

    with monkeypatch.context() as disk:
        disk.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(
            OSError, match=r"No space left on device; it takes 5 bytes: .*/result\.json'$"
        ):
            atomic.write_bytes(tmp_path / "result.json", b"12345")
        with (
            pytest.raises(OSError, match=r"No space left on device: .*/kit'$"),
            atomic.replacing_folder(tmp_path / "kit") as kit,
        ):
            (kit / "site.pem").write_bytes(b"12345")
    with (
        pytest.raises(OSError, match=r"No space left on device: .*/kit/site\.pem'$"),
        atomic.replacing_folder(tmp_path / "kit") as kit,
    ):
        raise OSError(errno.ENOSPC, "No space left on device", os.fspath(kit / "site.pem"))
    with monkeypatch.context() as disk:
        disk.setattr(atomic.tempfile, "mkstemp", lambda **named: full("made"))
        with pytest.raises(OSError, match=r": '.*/result\.json'$"):
            atomic.write_bytes(tmp_path / "result.json", b"12345")
    with (
        pytest.raises(FileNotFoundError, match="other"),
        atomic.replacing(tmp_path / "result.json"),
    ):
        (tmp_path / "other").read_bytes()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "error"),
    [("fsync", errno.EIO), ("replace", errno.EACCES), ("chmod", errno.EPERM)],
)
def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path, monkeypatch, call, error):
    def failing(*given, **_):
        raise OSError(error, os.strerror(error), *([] if call == "fsync" else given[:1]))

    with monkeypatch.context() as broken:
        broken.setattr(atomic.os, call, failing)
        with pytest.raises(OSError) as caught:
            atomic.write_text(tmp_path / "table.csv", "content")
    assert caught.value.filename == str(tmp_path / "table.csv")
    assert list(tmp_path.iterdir()) == []
