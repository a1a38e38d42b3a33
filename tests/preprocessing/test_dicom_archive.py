"""Reading a zip of a series, and refusing archives that could do harm."""

import io
import pathlib
import stat
import tempfile
import zipfile

import numpy as np
import pytest

from preprocessing import dicom, dicom_archive, sources
from preprocessing.case_list import Case
from preprocessing.rules import IntegrityError
from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import save, slices

AFFINE = np.array([[-0.7, 0, 0, 90.5], [0, -0.7, 0, 120.25], [0, 0, 2.5, -30.0], [0, 0, 0, 1.0]])
CT = Volume(np.random.default_rng(3).integers(-1000, 1500, (10, 12, 6)).astype(np.int16), AFFINE)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which is empty again after each test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def zipped(
    path, change=None, *, names="study/séries 1/IM{:d}", extra=(), compression=zipfile.ZIP_DEFLATED
):
    save(path.parent / "plain", slices(CT), name="IM{:d}".format)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for k, file in enumerate(sorted((path.parent / "plain").iterdir())):
            content = file.read_bytes()
            archive.writestr(names.format(k), change(k, content) if change else content)
        for name, content in extra:
            archive.writestr(name, content)
    return path


def refused(path, **limits):
    with pytest.raises(IntegrityError) as caught:
        if limits:
            with dicom_archive.unpacked(path, **limits):
                pass
        else:
            dicom.read_series(path)
    assert caught.value.file.startswith(str(path)) and "\n" not in str(caught.value)
    return caught.value


def test_a_zip_of_a_series_is_read_as_its_folder(tmp_path, temporary):
    path = zipped(
        tmp_path / "case.ZIP",
        extra=[
            ("__MACOSX/._IM0", b"\0\5\x16\7"),
            ("study/.DS_Store", b"x"),
            ("study/LICENSE", b"terms"),
            ("study/empty/", b""),
        ],
    )
    before = path.read_bytes()
    np.testing.assert_array_equal(sources.read_image(Case("a", path, None)).array, CT.array)
    with dicom.slice_files(path) as files:
        assert len(files) == 6 and all(file.is_relative_to(temporary) for file in files)
    assert path.read_bytes() == before


def test_an_error_names_the_file_in_the_archive(tmp_path):
    error = refused(zipped(tmp_path / "case.zip", lambda k, content: b"" if k == 5 else content))
    assert error.rule == "D09" and error.file == str(tmp_path / "case.zip") + "/study/séries 1/IM5"
    twice = refused(
        zipped(
            tmp_path / "two.zip",
            extra=[("study/copy/IM9", (tmp_path / "plain" / "IM2").read_bytes())],
        )
    )
    assert twice.rule == "D05" and "IM" in twice.problem and "unpacked" not in str(twice)
    assert (
        refused(
            zipped(tmp_path / "none.zip", lambda k, content: b"text only", names="LICENSE{:d}.txt")
        ).rule
        == "D01"
    )


@pytest.mark.parametrize(
    "name",
    [
        "../outside.dcm",
        "/etc/outside.dcm",
        "a/../../outside.dcm",
        "..\\outside.dcm",
        "C:\\outside.dcm",
        "c:outside.dcm",
        "a//b.dcm",
    ],
)
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path, name):
    (tmp_path / "deep").mkdir()
    error = refused(zipped(tmp_path / "deep" / "case.zip", extra=[(name, b"x")]))
    assert error.rule == "D16" and "leads out of the archive" in str(error)
    assert not list(tmp_path.rglob("outside*")) and not pathlib.Path("/etc/outside.dcm").exists()


def test_a_link_in_the_archive_is_refused(tmp_path):
    path = zipped(tmp_path / "case.zip")
    link = zipfile.ZipInfo("study/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "which is a link" in str(refused(path))


def test_an_archive_beyond_its_limits_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = zipped(tmp_path / "case.zip")
    monkeypatch.setattr(dicom_archive, "_unpack", lambda *_: pytest.fail("was unpacked"))
    assert "holds 6 files" in str(refused(path, most_files=5))
    assert "a series takes at most" in str(refused(path, most_bytes=1000))
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(5):
            archive.writestr(f"IM{k}", bytes(2**24))
    assert "packed more densely than any scan" in str(refused(bomb))
    monkeypatch.setattr(
        dicom_archive.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})
    )
    error = refused(path)
    assert error.rule == "D16" and "TMPDIR" in error.fix


def test_one_name_twice_is_refused(tmp_path):
    path = zipped(tmp_path / "case.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("study/séries 1/IM0", b"x")
    assert "twice" in str(refused(path))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_zip_that_is_cut_short_and_a_file_that_is_not_a_zip_are_refused(tmp_path, share):
    path = zipped(tmp_path / "case.zip")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert refused(path).rule == "D16"
    path.write_bytes(b"no zip")
    assert refused(path).rule == "D16"
    path.unlink()
    assert refused(path).rule == "F01"


def test_a_damaged_or_locked_member_is_refused_by_its_name(tmp_path):
    path = zipped(tmp_path / "case.zip", compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    error = refused(path)
    assert error.rule == "D16" and "cannot be unpacked" in str(error) and "IM" in str(error)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("IM0", b"x" * 100)
    locked = bytearray(buffer.getvalue())
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(sign) + offset] |= 1
    path.write_bytes(locked)
    assert "needs a password" in str(refused(path))
