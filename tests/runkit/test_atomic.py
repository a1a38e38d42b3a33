import errno
import json
import os
import pathlib

import pytest

from runkit import atomic
from tests import kills


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


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("x." + "b" * 246 + ".nii.gz", ".nii.gz"),
        ("1." * 124 + "nii.gz", ".nii.gz"),
        ("\u5c71." * 62 + "nii", ".nii"),  # 4 bytes each in UTF-8
        ("x." + "b" * 253, ""),
        ("b" * 248 + ".nii.gz", ".nii.gz"),
    ],
)
def test_a_file_can_have_the_longest_name_that_the_disk_takes(tmp_path, name, suffix):
    assert 250 < len(os.fsencode(name)) <= 255
    with atomic.replacing(tmp_path / name) as temporary:
        assert temporary.name.endswith(suffix) and temporary.name.startswith(".partial-")
        temporary.write_bytes(b"1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_leftovers_are_what_a_killed_writer_leaves_and_nothing_else(tmp_path):
    assert list(atomic.leftovers(tmp_path / "missing")) == []
    (tmp_path / "case.json").write_text("{}")
    with atomic.replacing(tmp_path / "case.json") as file, atomic.replacing(tmp_path / "b") as bare:
        assert set(atomic.leftovers(tmp_path)) == {file, bare}
        bare.write_bytes(b"1")
    assert list(atomic.leftovers(tmp_path)) == []


def test_nan_is_refused_and_broken_json_names_the_file(tmp_path):
    with pytest.raises(ValueError):
        atomic.write_json(tmp_path / "x.json", {"dice": float("nan")})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json: not valid JSON"):
        atomic.read_json(tmp_path / "broken.json")


@pytest.mark.parametrize("text", ["[]", "5", "null", '"a"'])
def test_what_must_be_an_object_is_one_or_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: is not a JSON object; make it again"):
        atomic.read_object(tmp_path / "a.json", remedy="make it again")
    (tmp_path / "a.json").write_text('{"b": 1}')
    assert atomic.read_object(tmp_path / "a.json") == {"b": 1}


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


def _whole(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


OLD, NEW = {"a": "old", "b": "old"}, {"a": "new", "c": "new"}


def _write(path, files):
    with atomic.replacing_folder(path) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def test_an_earlier_folder_is_never_half_removed_under_its_name(tmp_path, monkeypatch):
    path, seen, remove = tmp_path / "case", [], os.unlink
    _write(path, OLD)

    def unlink(*given, **named):
        seen.append(_whole(path))
        remove(*given, **named)
        seen.append(_whole(path))

    monkeypatch.setattr(os, "unlink", unlink)
    _write(path, NEW)
    assert len(seen) >= 4 and all(content == NEW for content in seen)
    assert [entry.name for entry in tmp_path.iterdir()] == ["case"]


def test_an_earlier_folder_comes_back_if_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    path, rename = tmp_path / "case", os.replace
    _write(path, OLD)

    def replace(source, target):
        if "-before" not in os.fspath(source) and os.fspath(target) == os.fspath(path):
            raise OSError(errno.EIO, "Input/output error", os.fspath(source))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="case"):
        _write(path, NEW)
    assert _whole(path) == OLD and [entry.name for entry in tmp_path.iterdir()] == ["case"]


def test_every_name_in_a_folder_is_synced_before_the_folder_gets_its_own(tmp_path, monkeypatch):
    synced, rename = [], os.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )

    def replace(source, target):
        synced.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with atomic.replacing_folder(tmp_path / "case") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
        wanted = {os.fspath(place) for place in (folder, folder / "inner", folder / "inner/file")}
    assert wanted <= set(synced[: synced.index("renamed")])


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_not_replaced_by_one(tmp_path, kind):
    path, other = tmp_path / "case", tmp_path / "other"
    other.mkdir()
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(other)
    with pytest.raises(OSError, match="case"):
        _write(path, NEW)
    assert path.read_text() == "mine" if kind == "file" else path.resolve() == other
    assert {entry.name for entry in tmp_path.iterdir()} == {"case", "other"}
    assert not list(other.iterdir())


def test_a_folder_whose_replacement_was_killed_has_its_old_or_its_new_files(tmp_path):
    seen = []
    for number in range(100):
        path = tmp_path / str(number) / "kit"
        _write(path, OLD)
        with kills.before_call(number) as made:
            _write(path, NEW)
        atomic.restore_folder(path)
        seen.append(_whole(path))
        _write(path, {"d": "newest"})
        assert _whole(path) == {"d": "newest"}
        assert not list(path.parent.glob("*-before"))
        if len(made) < number:
            break
    assert seen[0] == OLD and seen[-1] == NEW
    assert seen == sorted(seen, key=seen.index)  # never back to the old files


def test_a_disk_that_cannot_be_read_is_reported_with_the_file(tmp_path, monkeypatch):
    def failing(path):
        raise OSError(errno.EIO, "Input/output error")  # as read() does, without a name

    (tmp_path / "ca.pem").write_text("x")
    assert atomic.read_bytes(tmp_path / "ca.pem") == b"x"
    monkeypatch.setattr(pathlib.Path, "read_bytes", failing)
    with pytest.raises(OSError, match=r"Input/output error: '.*/ca\.pem'"):
        atomic.read_bytes(tmp_path / "ca.pem")
