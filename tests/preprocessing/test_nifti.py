import gzip

import nibabel
import numpy as np
import pytest

from preprocessing import nifti
from preprocessing.rules import IntegrityError
from preprocessing.volume import Volume
from tests.preprocessing.nifti_files import assert_same_place

AFFINE = np.array(
    [[-0.7, 0.0, 0.0, 90.5], [0.0, 0.0, 2.5, -30.25], [0.0, 0.8, 0.0, 12.0], [0.0, 0.0, 0.0, 1.0]]
)


def save(path, array, affine=AFFINE, *, kind=nibabel.Nifti1Image, dtype=None, change=None):
    image = kind(array, affine, dtype=dtype or array.dtype)
    if change is not None:
        change(image.header)
    nibabel.save(image, path)
    return path


def hu(shape=(5, 6, 7), dtype=np.int16):
    return np.random.default_rng(0).integers(-1024, 2000, shape).astype(dtype)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "<i4", "<f8", ">f4"])
def test_ct_as_nibabel_reads_it(tmp_path, name, kind, dtype):
    header = kind.header_class(endianness=dtype[0])
    header.set_data_dtype(dtype)
    nibabel.save(kind(hu(dtype=dtype), AFFINE, header), tmp_path / name)
    volume = nifti.read_ct(tmp_path / name)
    assert volume.array.dtype == (
        np.int16 if dtype == "<i2" else np.float32
    )  # HU as they are stored, or converted once
    assert volume.array.flags.f_contiguous  # as in the file: nothing was turned
    np.testing.assert_array_equal(volume.array, hu().astype(np.float32))
    np.testing.assert_array_equal(volume.affine, nibabel.load(tmp_path / name).affine)


def test_slope_and_intercept_are_applied(tmp_path):
    path = save(
        tmp_path / "ct.nii.gz", hu(), change=lambda header: header.set_slope_inter(0.5, -1024)
    )
    # nibabel scales stored values when it saves, so what it reads back is what was meant
    np.testing.assert_allclose(nifti.read_ct(path).array, nibabel.load(path).get_fdata(), atol=0.01)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    assert np.frombuffer(raw[112:120], "<f4").tolist() == [0.5, -1024.0]


def test_several_gzip_members_are_one_file(tmp_path):
    content = save(tmp_path / "plain.nii", hu()).read_bytes()
    path = tmp_path / "members.nii.gz"
    path.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    np.testing.assert_array_equal(nifti.read_ct(path).array, hu())


def test_voxels_may_begin_behind_an_extension(tmp_path):
    image = nibabel.Nifti1Image(hu(), AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"scanner notes" * 9))
    nibabel.save(image, tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(nifti.read_ct(tmp_path / "ct.nii.gz").array, hu())


def corrupt(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut_short(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "cut short"),
        (corrupt, "corrupt|cut short"),
        (lambda path, _: path.unlink(), "no such file"),
        (lambda path, _: path.write_bytes(b""), "not a NIfTI file"),
        (lambda path, _: path.write_bytes(b"\x1f\x8b"), "cut short|corrupt"),
        (lambda path, _: path.write_bytes(b"not a scan at all" * 60), "not a NIfTI file"),
        (lambda path, _: path.write_bytes(gzip.decompress(path.read_bytes())[:-3]), "bytes of"),
        (lambda path, _: save(path, hu((5, 6))), "2 dimensions"),
        (lambda path, _: save(path, hu((5, 6, 7, 2))), "4 dimensions"),
        (
            lambda path, _: save(
                path,
                np.where(np.arange(210).reshape(5, 6, 7) == 37, np.nan, 1.0).astype(np.float32),
            ),
            r"1 voxels are NaN.*\(0, 5, 2\)",
        ),
        (
            lambda path, _: save(path, np.full((5, 6, 7), -np.inf, np.float32)),
            "210 voxels are NaN or infinite",
        ),
        (
            lambda path, _: save(
                path, np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
            ),
            "one real number",
        ),
        (lambda path, _: save(path, np.zeros((5, 6, 7), np.complex64)), "one real number"),
        (lambda path, _: save(path, hu(), change=lambda h: h.set_xyzt_units("micron")), "micron"),
    ],
)
def test_a_bad_file_gives_one_error_that_names_it(tmp_path, damage, message):
    path = save(tmp_path / "case_17.nii.gz", hu())
    damage(path, tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        nifti.read_ct(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"case_17\.nii\.gz"):
        nifti.read_labels(path)


def test_the_error_for_a_link_without_a_target_tells_how_to_fetch_it(tmp_path):
    path = tmp_path / "ct.nii.gz"
    path.symlink_to("../.git/annex/objects/ab/MD5E-s1--x.nii.gz")
    with pytest.raises(
        IntegrityError, match=r"not fetched \[F01 missing\]; datalad get .*ct\.nii\.gz"
    ):
        nifti.read_ct(path)
    path.unlink()
    path.symlink_to("nowhere.nii.gz")
    with pytest.raises(
        IntegrityError, match=r"is a link to nowhere\.nii\.gz, which does not exist"
    ):
        nifti.read_ct(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_of_any_type_become_uint8(tmp_path, dtype):
    labels = (np.arange(210).reshape(5, 6, 7) % 3).astype(dtype)
    volume = nifti.read_labels(save(tmp_path / "label.nii.gz", labels))
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.array([0, 3, 7, 255], np.uint8),
            "label values 3, 7, 255 are unknown; "
            "known are 0 background, 1 pancreas, 2 tumour.*label_values",
        ),
        (np.array([0, -1, 1, 2], np.int16), "label values -1 "),
        (
            np.array([0, 0.999, 1, 2], np.float32),
            r"30 label voxels are not whole numbers \(e\.g\. 0\.999\)",
        ),
        (np.array([0, np.nan, 1, 2], np.float32), r"NaN.*write 0 \(background\)"),
    ],
)
def test_other_label_values_are_refused(tmp_path, labels, message):
    path = save(tmp_path / "label_4.nii.gz", np.broadcast_to(labels, (5, 6, 4)).copy())
    with pytest.raises(ValueError, match=rf"label_4\.nii\.gz.*{message}"):
        nifti.read_labels(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_organ_maps_are_mapped(tmp_path, dtype):
    organs = (np.arange(210).reshape(5, 6, 7) % 11).astype(dtype)
    mapped = nifti.read_labels(
        save(tmp_path / "organs.nii.gz", organs), values={7: 1, 9: 2, 300: 2}
    ).array
    assert mapped.dtype == np.uint8
    np.testing.assert_array_equal(mapped, np.where(organs == 7, 1, np.where(organs == 9, 2, 0)))


def test_organs_are_mapped_to_known_classes_only(tmp_path):
    with pytest.raises(ValueError, match=r"\[3\]"):
        nifti.read_labels(save(tmp_path / "organs.nii.gz", hu(dtype=np.uint8)), values={7: 3})


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_written_as_nibabel_reads_it(tmp_path, dtype):
    array = (np.arange(210) % 3).reshape(5, 6, 7).astype(dtype)
    for name in ("a.nii.gz", "b.nii.gz", "c.nii"):
        nifti.write_volume(tmp_path / name, Volume(array, AFFINE))
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == dtype and image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    np.testing.assert_allclose(image.header.get_qform(), AFFINE, atol=1e-5)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    np.testing.assert_array_equal(nifti.read_ct(tmp_path / "c.nii").array, array)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "ct.nii.gz"
    nifti.write_volume(path, Volume(hu(), AFFINE))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="int64"):
        nifti.write_volume(path, Volume(hu(dtype=np.int64), AFFINE))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["ct.nii.gz"]
    with pytest.raises(ValueError, match=r"ct\.mha"):
        nifti.write_volume(tmp_path / "ct.mha", Volume(hu(), AFFINE))


def oblique():
    angle = np.deg2rad(17.3)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.683594, 0.683594, 2.5])
    affine[:3, 3] = (101.23457, -88.1, 1.0 / 3.0)
    return affine


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (2, 0), (4, 3)])
@pytest.mark.parametrize("endianness", "<>")
def test_labels_keep_the_scans_place_bit_for_bit(tmp_path, kind, codes, endianness):
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(np.dtype("i2").newbyteorder(endianness))
    scan = kind(hu(), None, header)
    scan.header.set_qform(oblique(), code=codes[1])
    scan.header.set_sform(oblique() @ np.diag([1, 1, 1.0000001, 1]), code=codes[0])
    scan.header.set_xyzt_units("mm", "sec")
    scan.header.set_slope_inter(2.0, -1000.0)
    scan.header["descrip"] = b"DOE^JANE"
    scan.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nibabel.save(scan, tmp_path / "scan.nii.gz")
    mask = (np.arange(210).reshape(5, 6, 7) % 3).astype(np.uint8)
    nifti.write_labels_like(tmp_path / "mask.nii.gz", mask, tmp_path / "scan.nii.gz")
    written, reference = (
        nibabel.load(tmp_path / "mask.nii.gz"),
        nibabel.load(tmp_path / "scan.nii.gz"),
    )
    assert type(written) is type(reference) and written.header.endianness == endianness
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)
    assert written.get_data_dtype() == np.uint8
    assert written.affine.tobytes() == reference.affine.tobytes()
    assert_same_place(written.header, reference.header)
    assert b"DOE" not in gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())


@pytest.mark.parametrize(
    "mask", [np.zeros((6, 5, 7), np.uint8), np.zeros((5, 6, 7), np.int64)], ids=["turned", "int64"]
)
def test_a_mask_that_does_not_fit_the_scan_is_refused(tmp_path, mask):
    save(tmp_path / "scan.nii.gz", hu())
    with pytest.raises(ValueError, match=r"mask\.nii\.gz.*scan\.nii\.gz.*\(5, 6, 7\)"):
        nifti.write_labels_like(tmp_path / "mask.nii.gz", mask, tmp_path / "scan.nii.gz")
    assert not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (bytes(512), None),
        (bytes(70_000), None),
        (gzip.compress(b""), None),
        (bytes(9) + gzip.compress(b"more"), None),
        (
            b"\x12\x34 notes",
            r"compressed data end at byte {end}; "
            r"what follows is neither padding nor compressed .F04",
        ),
        (bytes(300) + b"x", "end at byte {end};.*F04"),
        (gzip.compress(b"more than a little more")[:-6], "end too early.*F03"),
    ],
    ids=[
        "padding",
        "long padding",
        "empty member",
        "padding and a member",
        "notes",
        "padding and a byte",
        "a member cut short",
    ],
)
def test_bytes_behind_a_gzip_are_padding_a_further_member_or_refused(tmp_path, tail, words):
    path = save(tmp_path / "ct.nii.gz", hu())
    end = path.stat().st_size
    path.write_bytes(path.read_bytes() + tail)
    if words is None:
        np.testing.assert_array_equal(nifti.read_ct(path).array, hu())
    else:
        with pytest.raises(ValueError, match=words.format(end=end)):
            nifti.read_ct(path)


def test_a_mask_of_a_scan_with_an_odd_suffix_is_written(tmp_path):
    nifti.write_volume(tmp_path / "MASK.NII.GZ", Volume(hu(), AFFINE))
    np.testing.assert_array_equal(nifti.read_ct(tmp_path / "MASK.NII.GZ").array, hu())
    assert (tmp_path / "MASK.NII.GZ").read_bytes()[:2] == b"\x1f\x8b"
