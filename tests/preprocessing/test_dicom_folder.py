"""Which files of a folder are a series: links, archives, missing preambles, damaged slices."""

import gzip
import os
import shutil

import numpy as np
import pytest

from preprocessing import dicom, sources
from preprocessing.case_list import Case
from preprocessing.rules import IntegrityError
from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import blank, enhanced, save, slices

AFFINE = np.array([[-0.7, 0, 0, 90.5], [0, -0.7, 0, 120.25], [0, 0, 2.5, -30.0], [0, 0, 0, 1.0]])
SHAPE = (10, 12, 9)
CT = Volume(np.random.default_rng(3).integers(-1000, 1500, SHAPE).astype(np.int16), AFFINE)
MEMBERS = ("first", "last", "middle")
NAMES = ("IM{:04d}.dcm", "IM{:04d}", "1.2.840.113.{:d}", "{:03d}.IMA", "slice{:d}.ct")


def written(folder, name="IM{:04d}", change=None):
    made = slices(CT)
    save(folder, change(made) if change else made, name=name.format)
    return sorted(
        folder.iterdir(),
        key=lambda path: int(
            "".join(c for c in path.name.removeprefix("1.2.840.113") if c.isdigit())
        ),
    )


def chosen(files, where):
    return files[{"first": 0, "last": -1, "middle": 4}[where]]


def refused(path, series=None):
    with pytest.raises(IntegrityError) as caught:
        dicom.read_series(path, series)
    assert "\n" not in str(caught.value)
    return caught.value


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    **{
        f"cut at {size} bytes": lambda path, size=size: path.write_bytes(path.read_bytes()[:size])
        for size in (60, 140, 300, 450, 600, 800)
    },
    "cut in its pixels": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a message of the server": lambda path: path.write_text("<html>503 Service Unavailable</html>"),
    "packed by itself": lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
    "a picture": lambda path: path.write_bytes(b"BM" + bytes(500)),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "not fetched by annex": lambda path: path.write_text(f"/annex/objects/MD5E-s1--{path.name}\n"),
    "not fetched by LFS": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"
    ),
    "a dangling link": lambda path: (path.unlink(), path.symlink_to("/nowhere/slice")),
    "a link into an annex": lambda path: (
        path.unlink(),
        path.symlink_to("../.git/annex/objects/ab/MD5E-s1--x"),
    ),
}


@pytest.mark.parametrize("where", MEMBERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_an_unreadable_slice_is_named(tmp_path, damage, where):
    path = chosen(written(tmp_path / "ct"), where)
    DAMAGE[damage](path)
    error = refused(tmp_path / "ct")
    assert error.file == str(path) and error.rule in ("F01", "D09")
    if "annex" in damage:
        assert "datalad get" in error.fix and str(path) in error.fix


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_slice_is_reported_whatever_its_name(tmp_path, name):
    files = written(tmp_path / "ct", name)
    assert dicom.read_series(tmp_path / "ct").shape == SHAPE
    files[-1].write_bytes(b"")
    assert refused(tmp_path / "ct").file == str(files[-1])


def test_several_unreadable_slices_are_counted(tmp_path):
    files = written(tmp_path / "ct")
    for path in files[-4:]:
        path.write_bytes(b"")
    text = str(refused(tmp_path / "ct"))
    assert files[-4].name in text and "3 more" in text and files[-1].name in text


def test_files_that_are_not_slices_are_left_out(tmp_path):
    written(tmp_path / "ct", "IM{:04d}.dcm")
    folder = tmp_path / "ct"
    (folder / "LICENSE").write_text("terms")
    (folder / "notes.txt").write_text("")
    (folder / "done.flag").write_bytes(b"")
    (folder / "view.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "slice0004.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "index.html").symlink_to("nowhere.html")
    (folder / ".git" / "annex").mkdir(parents=True)
    (folder / ".git" / "annex" / "IM0001.dcm").write_bytes(b"")
    (folder / "thumbs").write_bytes(b"SQLite format 3\0")
    np.testing.assert_array_equal(dicom.read_series(folder).array, CT.array)


def test_files_of_another_series_do_not_stop_the_one_that_is_chosen(tmp_path):
    written(tmp_path / "ct" / "one")
    save(tmp_path / "ct" / "two", slices(CT, series="1.2.9"), name="IM{:04d}".format)
    (tmp_path / "ct" / "two" / "IM0008").write_bytes(b"")
    np.testing.assert_array_equal(
        dicom.read_series(tmp_path / "ct", "1.2.826.0.1.1").array, CT.array
    )
    assert refused(tmp_path / "ct", "1.2.9").file.endswith("IM0008")


@pytest.mark.parametrize("absent", ["Modality", "Rows", "PixelData"])
def test_a_slice_without_an_identifying_attribute_is_named(tmp_path, absent):
    files = written(tmp_path / "ct", change=lambda made: (delattr(made[-1], absent), made)[1])
    error = refused(tmp_path / "ct")
    assert error.file == str(files[-1]) and error.rule in ("D09", "D12")


@pytest.mark.parametrize(
    "bare", [(0, 9), (7, 9), (4, 5)], ids=["all", "the last two", "one between"]
)
@pytest.mark.parametrize("name", ["I{:05d}", "I{:05d}.dcm"])
def test_slices_without_preamble_are_slices(tmp_path, bare, name):
    files = written(tmp_path / "ct", name)
    for path in files[slice(*bare)]:
        content = path.read_bytes()
        length = int.from_bytes(content[140:144], "little")
        path.write_bytes(
            content[144 + length :]
        )  # as an old archive keeps them: no meta group either
    np.testing.assert_array_equal(dicom.read_series(tmp_path / "ct").array, CT.array)


def test_links_to_folders_and_files_are_followed_once(tmp_path):
    store = written(tmp_path / "store")
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "CT").symlink_to(tmp_path / "store")
    (tmp_path / "case" / "again").symlink_to(tmp_path / "store")
    (tmp_path / "case" / "up").symlink_to(tmp_path / "case")
    (tmp_path / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "files").mkdir()
    for path in store:
        (tmp_path / "files" / path.name).symlink_to(path)
    (tmp_path / "store" / "latest").symlink_to(store[0])
    for name in ("case", "linked", "files"):
        np.testing.assert_array_equal(dicom.read_series(tmp_path / name).array, CT.array)
    assert (
        len(
            {
                str(sources.digests(Case("a", tmp_path / name, None)))
                for name in ("case", "linked", "files")
            }
        )
        == 1
    )


def test_a_dataset_of_datalad_is_its_tree_and_not_its_annex(tmp_path):
    for path in written(tmp_path / "ds" / "ct"):
        kept = tmp_path / "ds" / ".git" / "annex" / "objects" / path.name[-2:] / f"MD5E-{path.name}"
        kept.parent.mkdir(parents=True)
        path.rename(kept)
        path.symlink_to(os.path.relpath(kept, path.parent))
    for folder in (tmp_path / "ds", tmp_path / "ds" / "ct"):
        np.testing.assert_array_equal(dicom.read_series(folder).array, CT.array)
    shutil.rmtree(tmp_path / "ds" / ".git")
    error = refused(tmp_path / "ds")
    assert (
        error.rule == "F01"
        and error.fix.startswith("datalad get ")
        and error.file.endswith("IM0000")
    )


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    written(tmp_path / "ct")
    (tmp_path / "ct" / "more").mkdir(mode=0)
    if os.access(tmp_path / "ct" / "more", os.R_OK):
        pytest.skip("this user may list every folder")
    assert refused(tmp_path / "ct").file.endswith("more")


def test_a_series_is_chosen_by_uid_or_number_and_listed_with_description(tmp_path):
    for number, (uid, text) in enumerate(
        (("1.2.3", "arterial"), ("1.2.4", "portal venous")), start=4
    ):
        made = slices(CT if number == 4 else Volume(CT.array[::-1].copy(), AFFINE), series=uid)
        for ds in made:
            ds.SeriesNumber, ds.SeriesDescription = number, text
        save(tmp_path / "ct", made, name=f"s{number}i{{:d}}".format)
    text = str(refused(tmp_path / "ct"))
    assert (
        "1.2.3 (number 4, 'arterial', 9 slices)" in text
        and "1.2.4 (number 5, 'portal venous', 9 slices)" in text
    )
    np.testing.assert_array_equal(dicom.read_series(tmp_path / "ct", "4").array, CT.array)
    np.testing.assert_array_equal(dicom.read_series(tmp_path / "ct", "1.2.4").array, CT.array[::-1])
    assert "no CT series 6" in str(refused(tmp_path / "ct", "6"))


def test_a_single_multi_frame_file_is_a_scan(tmp_path):
    save(tmp_path, [enhanced(CT)], name=lambda i: "scan")
    assert dicom.is_series(tmp_path / "scan")
    np.testing.assert_array_equal(
        sources.read_image(Case("a", tmp_path / "scan", None)).array, CT.array
    )


def test_other_objects_are_counted_by_what_they_are(tmp_path):
    report = blank("1.2.3", number=1, rows=4, columns=4)
    report.Modality = "SR"
    save(tmp_path, [report])
    assert "holds no CT slices, but 1 SR" in str(refused(tmp_path))


def test_a_specialised_class_that_names_ct_as_its_general_one_is_ct(tmp_path):
    def change(made, related):
        for ds in made:
            ds.SOPClassUID = "1.3.46.670589.5.0.1"
            if related:
                ds.RelatedGeneralSOPClassUID = related
        return made

    written(
        tmp_path / "ct", change=lambda made: change(made, ["1.2.3", "1.2.840.10008.5.1.4.1.1.2"])
    )
    np.testing.assert_array_equal(dicom.read_series(tmp_path / "ct").array, CT.array)
    written(tmp_path / "private", change=lambda made: change(made, None))
    assert refused(
        tmp_path / "private"
    ).rule == "D10" and "another class (1.3.46.670589.5.0.1)" in str(refused(tmp_path / "private"))
