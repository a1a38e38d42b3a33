"""Inputs that are unusual but valid: all of them must be accepted."""

from __future__ import annotations

import gzip
import itertools
import zipfile
from collections.abc import Iterator

import nibabel
import numpy as np

from tests.preprocessing.corpus_files import (
    AFFINE,
    CT,
    LABEL,
    SHAPE,
    Kind,
    both,
    damaged,
    decathlon,
    each,
    entry,
    flip_x,
    flip_y,
    image,
    label,
    listing,
    moved,
    nifti,
    put,
    series,
    shifted,
    site,
    then,
    turned,
    two_series,
    with_values,
    write,
)
from tests.preprocessing.dicom_files import blank, enhanced, save, slices


def enhanced_series(folder):
    label()(folder)
    save(folder / "series", [enhanced(CT)])
    return {"cases": [entry(image="series")]}


def _bare(folder):
    found = series()(folder)
    for path in sorted((folder / "series").iterdir()):
        content = path.read_bytes()
        path.with_suffix("").write_bytes(
            content[144 + int.from_bytes(content[140:144], "little") :]
        )
        path.unlink()
    return found


def _padded(folder):
    def edit(ds, k):
        pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).copy()
        pixels[:6] = 63536
        ds.PixelData = pixels.tobytes()
        ds.add_new("PixelPaddingValue", "US", 63536)

    return series(each(edit))(folder)


def _linked(folder):
    found = series()(folder)
    (folder / "series").rename(folder / "store")
    (folder / "series").mkdir()
    (folder / "series" / "CT").symlink_to(folder / "store")
    return found


def _zipped(folder):
    series()(folder)
    with zipfile.ZipFile(folder / "series.zip", "w") as archive:
        for path in sorted((folder / "series").iterdir()):
            archive.write(path, f"study/{path.name}")
    return {"cases": [entry(image="series.zip")]}


def _two_acquisitions(folder):
    def change(made):
        again = slices(CT)
        for number, passed in enumerate((made, again), start=1):
            for ds in passed:
                ds.AcquisitionNumber = number
        return [*made, *again]

    series(change)(folder)
    return {"cases": [entry(image="series", series="#2")]}


def _axis_orders() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the patient in all 48 orders of its axes, at the same place."""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            matrix = np.zeros((4, 4))
            matrix[3, 3] = 1
            for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
                matrix[source, axis] = -1 if flip else 1
                matrix[source, 3] = SHAPE[source] - 1 if flip else 0
            turn = tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
            name = "".join(
                "xyz"[source] + "+-"[flip] for source, flip in zip(order, flips, strict=True)
            )
            yield (
                name,
                *(np.ascontiguousarray(v.array.transpose(order)[turn]) for v in (CT, LABEL)),
                AFFINE @ matrix,
            )


def big_endian(array: np.ndarray, dtype: str):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(dtype)
    return {"array": array.astype(dtype), "header": header, "dtype": np.dtype(dtype)}


def _stretched(factors: tuple[int, int, int], crop, affine):
    """Returns the patient at another resolution, in whole multiples of voxels."""

    def make(folder):
        for name, volume in (("image", CT), ("label", LABEL)):
            array = volume.array[crop]
            for axis, factor in enumerate(factors):
                array = np.repeat(array, factor, axis=axis)
            nifti(folder / f"{name}.nii.gz", array, affine)

    return make


def long_quaternion():
    """Half a turn about z: in float32 its quaternion (0, 0, 1) may be slightly too long."""
    return CT.array[::-1, ::-1].copy(), LABEL.array[::-1, ::-1].copy(), AFFINE @ flip_x() @ flip_y()


def thin_tumour() -> np.ndarray:
    thin = np.where(LABEL.array > 0, 1, 0).astype(np.uint8)
    k = int(np.flatnonzero((LABEL.array == 2).any(axis=(0, 1)))[1])
    thin[:, :, k] = LABEL.array[:, :, k]
    return thin


def _organ_map() -> np.ndarray:
    organs = np.where(LABEL.array == 1, 7, np.where(LABEL.array == 2, 9, 0))
    return np.where((organs == 0) & (CT.array > 80), 5, organs).astype(np.uint8)


def valid() -> Iterator[Kind]:
    for name, ct, labels, affine in _axis_orders():
        yield Kind(f"axes {name}", "nifti", None, both(ct, labels, affine))
    fine = np.diag([3.0, 3.0, 0.16, 1.0])
    nii = [
        ("oblique", both(affine=turned(8, -5, 12))),
        ("oblique by almost 45 degrees", both(affine=turned(0, 0, 44.9))),
        (
            "big-endian",
            lambda f: (
                nifti(f / "image.nii.gz", **big_endian(CT.array, ">i2")),
                nifti(f / "label.nii.gz", **big_endian(LABEL.array, ">i2")),
            ),
        ),
        (
            "slope and intercept",
            then(
                both(),
                image((CT.array + 1024).astype(np.uint16), change=put(112, "<f4", 1.0, -1024.0)),
            ),
        ),
        (
            "slope of a half",
            then(both(), image((CT.array * 2).astype(np.int16), change=put(112, "<f4", 0.5, 0.0))),
        ),
        ("CT as float64", then(both(), image(CT.array.astype(np.float64)))),
        ("label as float64", then(both(), label(LABEL.array.astype(np.float64)))),
        (
            "label off by rounding",
            then(both(), label((LABEL.array * np.float32(1.000001)).astype(np.float32))),
        ),
        ("label as int64", then(both(), label(LABEL.array.astype(np.int64)))),
        (
            "label in another axis order",
            then(
                both(),
                lambda f: nifti(
                    f / "label.nii.gz", np.ascontiguousarray(LABEL.array[::-1]), AFFINE @ flip_x()
                ),
            ),
        ),
        (
            "affine noise of 1e-8",
            then(
                both(),
                label(
                    affine=AFFINE
                    + np.random.default_rng(1).normal(0, 1e-8, (4, 4)) * [[1], [1], [1], [0]]
                ),
            ),
        ),
        ("origin off by 0.1 mm", then(both(), label(affine=shifted(0.1, 0, 0)))),
        ("NIfTI-2", both(kind=nibabel.Nifti2Image)),
        (
            "not compressed",
            lambda f: (
                (nifti(f / "image.nii", CT.array), nifti(f / "label.nii", LABEL.array))
                and {"cases": [entry(image="image.nii", label="label.nii")]}
            ),
        ),
        ("not compressed, named .nii.gz", damaged("image.nii.gz", gzip.decompress)),
        ("fourth axis of length one", then(both(), image(CT.array[..., None]))),
        (
            "sform only",
            both(change=lambda raw: (put(252, "<i2", 0)(raw), put(80, "<f4", 1, 1, 1)(raw))),
        ),
        ("qform only", both(change=put(252, "<i2", 1, 0))),
        (
            "qfac of 0",
            both(change=lambda raw: (put(252, "<i2", 1, 0)(raw), put(76, "<f4", 0)(raw))),
        ),
        (
            "quaternion long by rounding, qform only",
            both(
                *long_quaternion(),
                change=lambda raw: (
                    put(252, "<i2", 1, 0)(raw),
                    put(256, "<f4", 0, 0, 1.0000004)(raw),
                ),
            ),
        ),
        (
            "quaternion long by rounding beside an sform",
            both(
                *long_quaternion(),
                change=lambda raw: (put(252, "<i2", 1)(raw), put(256, "<f4", 0, 0, 1.0000004)(raw)),
            ),
        ),
        (
            "no orientation, given in the manifest",
            then(
                both(change=put(252, "<i2", 0, 0)), lambda f: {"cases": [entry(orientation="RAS")]}
            ),
        ),
        (
            "label without orientation, given in the manifest",
            then(
                both(),
                label(change=put(252, "<i2", 0, 0)),
                lambda f: {"cases": [entry(orientation="ras")]},
            ),
        ),
        (
            "label without orientation, placed by the manifest",
            then(
                both(),
                label(change=put(252, "<i2", 0, 0)),
                lambda f: {"cases": [entry(label_turn="+x+y+z")]},
            ),
        ),
        (
            "zeros behind the compressed data",
            damaged("image.nii.gz", lambda content: content + bytes(512)),
        ),
        (
            "two compressed members with padding",
            damaged(
                "image.nii.gz",
                lambda content: (
                    gzip.compress(gzip.decompress(content)[:4000])
                    + bytes(9)
                    + gzip.compress(gzip.decompress(content)[4000:])
                ),
            ),
        ),
        ("unit unknown", both(change=put(123, "u1", 0))),
        ("tumour of one slice", then(both(), label(thin_tumour()))),
        ("no tumour", then(both(), label((LABEL.array > 0).astype(np.uint8)))),
        (
            "padding of -3024 HU",
            then(both(), image(np.where(CT.array < -900, -3024, CT.array).astype(np.int16))),
        ),
        (
            "metal of 30000 HU",
            then(both(), image(with_values(CT.array, np.s_[40:43, 20:22, 12:14], 30000))),
        ),
        ("CT cut off at -200 and 250 HU", then(both(), image(np.clip(CT.array, -200, 250)))),
        ("slices of 0.16 mm", _stretched((1, 1, 20), np.s_[:, :, 8:18], fine)),
        (
            "1200 slices",
            _stretched((1, 1, 50), np.s_[8:56, 6:48, 2:26], np.diag([3.0, 3.0, 0.1, 1.0])),
        ),
        (
            "organ map",
            then(both(), label(_organ_map()), lambda f: {"label_values": {"7": 1, "9": 2}}),
        ),
        ("scan without label", lambda f: image()(f) or {"cases": [entry(label=None)]}),
        (
            "wrong label, excluded",
            lambda f: (
                (both()(f), nifti(f / "b.nii.gz", moved(CT.array, 3, 0, 0)))
                and {
                    "cases": [entry(), entry("b", image="b.nii.gz", label="none.nii.gz")],
                    "excluded": ["b"],
                }
            ),
        ),
        (
            "flipped label, accepted",
            then(
                both(),
                label(LABEL.array[::-1].copy()),
                lambda f: {"cases": [entry(accept=["C06"])]},
            ),
        ),
    ]
    for name, make in nii:
        yield Kind(name, "nifti", None, make)
    dcm = [
        ("DICOM series", series()),
        ("DICOM as RLE", series(syntax="1.2.840.10008.1.2.5")),
        ("DICOM as JPEG 2000", series(syntax="1.2.840.10008.1.2.4.90")),
        ("DICOM as JPEG-LS", series(syntax="1.2.840.10008.1.2.4.80")),
        ("enhanced multi-frame DICOM", enhanced_series),
        ("DICOM beside a localizer", series(lambda made: [*made, localizer()])),
        (
            "DICOM series by name",
            then(two_series, lambda f: {"cases": [entry(image="series", series="1.2.826.0.1.1")]}),
        ),
        ("DICOM without preamble and suffix", _bare),
        ("DICOM padded with 63536", _padded),
        ("DICOM behind a linked folder", _linked),
        ("DICOM in blocks", series(each(lambda ds, k: setattr(ds, "AcquisitionNumber", k // 10)))),
        (
            "DICOM beside a licence and an empty note",
            then(
                write("LICENSE", b"terms"),
                series(),
                lambda f: (f / "LICENSE").rename(f / "series" / "LICENSE") and None,
                write("series/notes.txt", b""),
                lambda f: {"cases": [entry(image="series")]},
            ),
        ),
        (
            "multi-frame DICOM file",
            then(
                enhanced_series,
                lambda f: {
                    "cases": [entry(image=str(next((f / "series").iterdir()).relative_to(f)))]
                },
            ),
        ),
        ("zip of a DICOM series", _zipped),
        ("DICOM acquisition by number", _two_acquisitions),
        ("DICOM from feet to head", series(lambda made: made[::-1])),
    ]
    for name, make in dcm:
        yield Kind(name, "dicom", None, make)
    yield Kind(
        "decathlon dataset as it is",
        "manifest",
        None,
        listing(decathlon(test=["./imagesTs/._pancreas_1.nii.gz"])),
    )
    yield Kind("manifest with further keys", "manifest", None, listing(site(licence="CC BY 4.0")))


def localizer():
    ds = blank("1.2.3", number=1, rows=8, columns=8)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.PixelData = bytes(128)
    return ds
