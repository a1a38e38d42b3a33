"""Scans and manifests as they should not be, and as they may be: each kind is a folder with a manifest.json of one small case.

    python -m tests.preprocessing.corpus FOLDER      writes all of them, and FOLDER/corpus.json, which says what each is

The tests read them with the product; `tests/benchmarks/malformed.py` with other software.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import nibabel
import numpy as np

from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import SECONDARY_CAPTURE, blank, enhanced, save, slices

AFFINE = np.array([[3.0, 0, 0, -95.0], [0, 3.0, 0, -80.0], [0, 0, 5.0, -60.0], [0, 0, 0, 1.0]])
SHAPE = (64, 54, 28)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
      group: "nifti", "dicom", "manifest" or "cohort".
      rule: id of the rule that refuses it, None for one that is valid.
      make: writes image, label or manifest into a folder; what it returns is merged into the manifest.
      file: end of the path that the refusal names.
    """

    name: str
    group: str
    rule: str | None
    make: Callable[[pathlib.Path], dict[str, Any] | None]
    file: str = "image.nii.gz"


def patient() -> tuple[Volume, Volume]:
    """Returns a small abdomen, int16 HU and labels, both RAS+: nothing in it is where its mirror image would be."""
    x, y, z = np.meshgrid(*(AFFINE[a, 3] + AFFINE[a, a] * np.arange(n) for a, n in enumerate(SHAPE)), indexing="ij")

    def inside(centre, radii):
        return sum(((v - c) / r) ** 2 for v, c, r in zip((x, y, z), centre, radii, strict=True)) < 1

    hu = np.full(SHAPE, -1000.0)
    hu[inside((0, 0, 0), (86, 68, 1e9))] = 45
    hu[inside((0, 4, 0), (72, 54, 1e9))] = -95
    for centre, radii, value in (
        ((45, 10, 10), (26, 32, 45), 110),  # liver
        ((-48, -18, 30), (16, 20, 24), 115),  # spleen
        ((0, -48, 0), (15, 15, 1e9), 300),  # spine
        ((-30, 30, 40), (22, 16, 18), -850),  # gas in the stomach
        ((36, -25, -20), (14, 16, 26), 160),  # kidneys
        ((-36, -27, -12), (14, 16, 26), 165),
    ):
        hu[inside(centre, radii)] = value
    label = np.zeros(SHAPE, np.uint8)
    label[inside((-14, -8, 2), (26, 10, 12)) | inside((8, -3, -8), (12, 11, 16))] = 1
    label[inside((-2, -4, -2), (8, 8, 9)) & (label == 1)] = 2
    hu[label == 1], hu[label == 2] = 95, 55
    hu += np.random.default_rng(5).normal(0, 12, SHAPE)
    return Volume(np.rint(hu).astype(np.int16), AFFINE), Volume(label, AFFINE)


CT, LABEL = patient()


def nifti(path: pathlib.Path, array: np.ndarray, affine=AFFINE, *, change=None, kind=nibabel.Nifti1Image, dtype=None, header=None) -> None:
    """Saves an array by nibabel; `change` edits the header's bytes, which nibabel itself would put right."""
    image = kind(array, affine, header, dtype=dtype or array.dtype)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    if change is not None:
        content = path.read_bytes()
        raw = bytearray(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
        change(raw)
        path.write_bytes(gzip.compress(bytes(raw), 1) if path.suffix == ".gz" else bytes(raw))


def image(array=CT.array, affine=AFFINE, **changes):
    return lambda folder: nifti(folder / "image.nii.gz", array, affine, **changes)


def label(array=LABEL.array, affine=AFFINE, **changes):
    return lambda folder: nifti(folder / "label.nii.gz", array, affine, **changes)


def both(array=CT.array, labels=LABEL.array, affine=AFFINE, **changes):
    def make(folder):
        image(array, affine, **changes)(folder)
        label(labels, affine, **changes)(folder)

    return make


def write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def damaged(name: str, damage: Callable[[bytes], bytes]):
    def make(folder):
        both()(folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes()))

    return make


def put(offset: int, dtype: str, *values):
    """Returns an edit of a header: values from a byte on."""

    def change(raw: bytearray) -> None:
        content = np.array(values, dtype).tobytes()
        raw[offset : offset + len(content)] = content

    return change


def flip_byte(content: bytes) -> bytes:
    raw = bytearray(content)
    raw[len(raw) // 2] ^= 0x55
    return bytes(raw)


def with_values(array: np.ndarray, where, value) -> np.ndarray:
    changed = np.array(array)
    changed[where] = value
    return changed


def moved(array: np.ndarray, *voxels: int) -> np.ndarray:
    return np.roll(array, voxels, axis=(0, 1, 2))


def shifted(*mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return affine


def turned(*degrees: float) -> np.ndarray:
    turn = nibabel.eulerangles.euler2mat(*np.deg2rad(degrees))
    affine = AFFINE.copy()
    affine[:3] = turn @ AFFINE[:3]
    return affine


def tall_affine(columns) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, :3] = columns
    return affine


SHEARED = tall_affine([[3.0, 0, 0], [0, 3.0, 1.0], [0, 0, 5.0]])
SRS = 280  # byte of srow_x in a NIfTI-1 header
HALO = np.where(LABEL.array > 0, 0.999, 0.0).astype(np.float32)
FAR_TUMOUR = np.where(LABEL.array == 1, 1, 0).astype(np.uint8)
FAR_TUMOUR[50:53, 30:33, 23:26] = 2


def _other_scan_same_label(folder):
    both()(folder)
    nifti(folder / "other.nii.gz", CT.array + np.random.default_rng(8).integers(-20, 20, SHAPE, np.int16))
    (folder / "copy.nii.gz").write_bytes((folder / "label.nii.gz").read_bytes())
    return {"cases": [entry("first"), entry("second", image="other.nii.gz", label="copy.nii.gz")]}


def _same_scan_twice(folder):
    both()(folder)
    # saved by other software: another axis order, as float, and ten slices less
    nifti(folder / "again.nii.gz", CT.array[::-1, :, :-10].astype(np.float32), AFFINE @ flip_x(), dtype=np.float32)
    nifti(folder / "again_label.nii.gz", LABEL.array[::-1, :, :-10], AFFINE @ flip_x())
    return {"cases": [entry("first"), entry("second", image="again.nii.gz", label="again_label.nii.gz")]}


def flip_x() -> np.ndarray:
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = SHAPE[0] - 1
    return matrix


def entry(case_id="case", **changes) -> dict[str, Any]:
    return {"case_id": case_id, "image": "image.nii.gz", "label": "label.nii.gz", **changes}


def series(change=None, *, volume=CT, syntax=None, **entries):
    """A DICOM case: `change` takes its list of slices and returns the ones to write."""

    def make(folder):
        label()(folder)
        made = slices(volume)
        save(folder / "series", change(made) if change else made, syntax=syntax)
        return {"cases": [entry(image="series", **entries)]}

    return make


def each(edit):
    def change(made):
        for k, ds in enumerate(made):
            edit(ds, k)
        return made

    return change


def _drop(name):
    return each(lambda ds, k: delattr(ds, name))


def _resize(ds, k):
    if k == 5:
        ds.Rows, ds.Columns = 27, 32
        ds.PixelData = ds.PixelData[: 27 * 32 * 2]


def _colour(ds, k):
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelData = bytes(ds.Rows * ds.Columns * 3)


def _tilted(ds, k):
    x, y, z = ds.ImagePositionPatient
    ds.ImagePositionPatient = [x, f"{float(y) + 0.9 * k:.5f}", z]


def _set(name, value, only=None):
    return each(lambda ds, k: setattr(ds, name, value) if only in (None, k) else None)


def _twice(made):
    copy = slices(CT)[7]
    copy.SOPInstanceUID = "1.2.3.4"
    return [*made, copy]


def _broken_codestream(folder):
    found = series(syntax="1.2.840.10008.1.2.4.90")(folder)
    path = sorted((folder / "series").iterdir())[3]
    content = path.read_bytes()
    path.write_bytes(content[:-600] + bytes(600))
    return found


def _truncated_dicom(folder):
    found = series()(folder)
    path = sorted((folder / "series").iterdir())[3]
    path.write_bytes(path.read_bytes()[:-900])
    return found


def _two_series(folder):
    found = series()(folder)
    save(folder / "series", slices(CT, series="1.2.9")[:9], name=lambda i: f"b{i}.dcm")
    return found


def _empty_folder(folder):
    label()(folder)
    (folder / "series").mkdir()
    (folder / "series" / "readme.txt").write_text("no scan")
    return {"cases": [entry(image="series")]}


def _zero_bytes(folder):
    found = series()(folder)
    (folder / "series" / "1-001.dcm").write_bytes(b"")
    return found


def _old_multi_frame(folder):
    label()(folder)
    ds = enhanced(CT)
    del ds.PerFrameFunctionalGroupsSequence
    save(folder / "series", [ds])
    return {"cases": [entry(image="series")]}


def _enhanced(folder):
    label()(folder)
    save(folder / "series", [enhanced(CT)])
    return {"cases": [entry(image="series")]}


def _manifest(value, files=True):
    def make(folder):
        if files:
            both()(folder)
        (folder / "manifest.json").write_text(value if isinstance(value, str) else json.dumps(value))

    return make


def _site(**changes):
    return {"site": "C2", "cases": [entry()], **changes}


def _msd(**changes):
    return {"name": "PANCREAS", "labels": {"0": "background", "1": "pancreas", "2": "cancer"}, "training": [{"image": "./image.nii.gz", "label": "./label.nii.gz"}], **changes}  # fmt: skip


def _then(*steps):
    def make(folder):
        result = None
        for step in steps:
            result = step(folder) or result
        return result

    return make


def _malformed() -> Iterator[Kind]:
    nii = [
        ("no image", "F01", label()),
        ("no label", "F01", image(), "label.nii.gz"),
        ("image is an empty file", "F02", _then(both(), write("image.nii.gz", b""))),
        ("image is a text file", "F02", _then(both(), write("image.nii.gz", b"see the archive\n" * 40))),
        ("image is an AppleDouble file", "F02", _then(both(), write("image.nii.gz", b"\x00\x05\x16\x07" + bytes(400)))),
        ("image is half of a .hdr/.img pair", "F02", _then(both(), lambda f: nibabel.save(nibabel.Nifti1Pair(CT.array, AFFINE), f / "pair.hdr"), lambda f: {"cases": [entry(image="pair.hdr")]}), "pair.hdr"),
        ("image cut in its compressed data", "F03", damaged("image.nii.gz", lambda c: c[: len(c) * 2 // 3])),
        ("label cut in its compressed data", "F03", damaged("label.nii.gz", lambda c: c[: len(c) * 2 // 3]), "label.nii.gz"),
        ("image cut before it was compressed", "F03", damaged("image.nii.gz", lambda c: gzip.compress(gzip.decompress(c)[:-5000]))),
        ("image with a flipped bit", "F04", damaged("image.nii.gz", lambda c: c[:-8] + flip_byte(c[-8:]))),
        ("image in colour", "F05", _then(both(), lambda f: nifti(f / "image.nii.gz", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])))),
        ("image is complex", "F05", _then(both(), image(CT.array.astype(np.complex64)))),
        ("image has two dimensions", "F06", _then(both(), image(CT.array[:, :, 9]))),
        ("image has two volumes", "F06", _then(both(), image(np.stack([CT.array] * 2, axis=3)))),
        ("image has a NaN", "F07", _then(both(), image(with_values(CT.array.astype(np.float32), (9, 9, 9), np.nan)))),
        ("image has an infinite voxel", "F07", _then(both(), image(with_values(CT.array.astype(np.float32), (9, 9, 9), -np.inf)))),
        ("label has a NaN", "F07", _then(both(), label(with_values(LABEL.array.astype(np.float32), (9, 9, 9), np.nan))), "label.nii.gz"),
        ("intercept is infinite", "F08", _then(both(), image(change=put(112, "<f4", 1.0, np.inf)))),
        ("affine is all zero", "G01", _then(both(), image(change=put(SRS, "<f4", *[0] * 12)))),
        ("affine has a NaN", "G01", _then(both(), image(change=put(SRS, "<f4", np.nan)))),
        ("affine has two equal axes", "G01", _then(both(), image(change=lambda raw: (put(SRS, "<f4", 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0)(raw), put(252, "<i2", 0)(raw))))),
        ("lengths in micrometres", "G02", _then(both(), image(change=put(123, "u1", 3)))),
        ("spacing of 50 mm", "G03", both(affine=np.diag([3.0, 3, 50, 1]))),
        ("spacing in metres", "G03", both(affine=np.diag([0.003, 0.003, 0.005, 1]))),
        ("a single slice", "G04", both(CT.array[:, :, 12:13], LABEL.array[:, :, 12:13])),
        ("label has one slice less", "G05", _then(both(), label(LABEL.array[:, :, :-1])), "label.nii.gz"),
        ("label has exchanged axes", "G05", _then(both(), label(LABEL.array.transpose(1, 0, 2))), "label.nii.gz"),
        ("label's origin off by one voxel", "G06", _then(both(), label(affine=shifted(3, 0, 0))), "label.nii.gz"),
        ("label without an affine", "G06", _then(both(), label(affine=np.diag([3.0, 3, 5, 1]))), "label.nii.gz"),
        ("label's spacing off by 5 %", "G06", _then(both(), label(affine=AFFINE @ np.diag([1.05, 1, 1, 1]))), "label.nii.gz"),
        ("label turned by 10 degrees", "G06", _then(both(), label(affine=turned(0, 0, 10))), "label.nii.gz"),
        ("label mirrored in its header only", "G06", _then(both(), label(affine=AFFINE @ np.diag([-1.0, 1, 1, 1]))), "label.nii.gz"),
        ("sform and qform 12 mm apart", "G07", _then(both(), image(change=lambda raw: (put(252, "<i2", 1)(raw), put(268, "<f4", -83.0)(raw))))),
        ("pixdim and sform differ", "G07", _then(both(), image(change=lambda raw: (put(252, "<i2", 0)(raw), put(80, "<f4", 0.7, 0.7, 5.0)(raw))))),
        ("sheared axes", "G08", both(affine=SHEARED)),
        ("label values of 0.999", "L01", _then(both(), label(HALO)), "label.nii.gz"),
        ("label is a probability map", "L01", _then(both(), label(HALO * np.linspace(0, 1, SHAPE[0], dtype=np.float32)[:, None, None])), "label.nii.gz"),
        ("label has a 3", "L02", _then(both(), label(with_values(LABEL.array, (20, 20, 10), 3))), "label.nii.gz"),
        ("label of 0 and 255", "L02", _then(both(), label((LABEL.array > 0).astype(np.uint8) * 255)), "label.nii.gz"),
        ("label has a -1", "L02", _then(both(), label(with_values(LABEL.array.astype(np.int16), (20, 20, 10), -1))), "label.nii.gz"),
        ("label is empty", "L03", _then(both(), label(np.zeros(SHAPE, np.uint8))), "label.nii.gz"),
        ("label is inverted", "L04", _then(both(), label((LABEL.array == 0).astype(np.uint8))), "label.nii.gz"),
        ("tumour far from the pancreas", "L05", _then(both(), label(FAR_TUMOUR)), "label.nii.gz"),
        ("tumour without pancreas", "L05", _then(both(), label(np.where(LABEL.array > 0, 2, 0).astype(np.uint8))), "label.nii.gz"),
        ("image is a label map", "C01", _then(both(), image(LABEL.array))),
        ("image shows 0 to 255", "C01", _then(both(), image(np.clip((CT.array + 160) / 400 * 255, 0, 255).astype(np.uint8)))),
        ("image is air only", "C01", _then(both(), image(np.full(SHAPE, -1024, np.int16)))),
        ("HU plus 1024", "C02", _then(both(), image(CT.array + 1024))),
        ("HU minus 1024", "C02", _then(both(), image(CT.array - 1024))),
        ("image and label exchanged", "C03", both(LABEL.array, CT.array), "label.nii.gz"),
        ("image listed as label", "C03", _then(both(), label(CT.array)), "label.nii.gz"),
        ("label in the air", "C04", _then(both(), label(with_values(np.zeros(SHAPE, np.uint8), np.s_[2:6, 2:8, 5:20], 1))), "label.nii.gz"),
        ("label on the spine", "C05", _then(both(), label(with_values(np.zeros(SHAPE, np.uint8), np.s_[29:35, 9:13, 5:20], 1))), "label.nii.gz"),
        *((f"label's voxels mirrored {name}", "C06", _then(both(), label(np.ascontiguousarray(np.flip(LABEL.array, axes)))), "label.nii.gz") for name, axes in (("left-right", 0), ("front-back", 1), ("head-feet", 2), ("in plane", (0, 1)))),
        *((f"label's voxels moved by {by}", rule, _then(both(), label(moved(LABEL.array, *by))), "label.nii.gz") for by, rule in (((8, 0, 0), "C07"), ((-8, 0, 0), "C05"), ((0, 0, 5), "C05"), ((0, -6, 0), "C05"))),
    ]  # fmt: skip
    for name, rule, make, *file in nii:
        yield Kind(name, "nifti", rule, make, *file)
    dcm = [
        ("folder does not exist", "F01", _then(label(), lambda f: {"cases": [entry(image="series")]}), "series"),
        ("folder without DICOM", "D01", _empty_folder, "series"),
        ("two series in a folder", "D02", _two_series, "series"),
        ("series that is not there", "D02", series(series="1.9.9"), "series"),
        ("slice of another size", "D03", series(each(_resize)), ".dcm"),
        ("slice of another orientation", "D03", series(_set("ImageOrientationPatient", [0, -1, 0, 1, 0, 0], 5)), ".dcm"),
        ("slice of another pixel spacing", "D03", series(_set("PixelSpacing", [2.0, 2.0], 5)), ".dcm"),
        ("missing slice", "D04", series(lambda made: made[:9] + made[10:]), "series"),
        ("four missing slices", "D04", series(lambda made: made[:9] + made[13:]), "series"),
        ("last slice far away", "D04", series(each(lambda ds, k: setattr(ds, "ImagePositionPatient", [*ds.ImagePositionPatient[:2], 300.0]) if k == 27 else None)), "series"),
        ("duplicated slice", "D05", series(_twice), ".dcm"),
        ("tilted gantry", "D06", series(each(_tilted)), "series"),
        ("no position", "D07", series(_drop("ImagePositionPatient")), ".dcm"),
        ("no orientation", "D07", series(_drop("ImageOrientationPatient")), ".dcm"),
        ("no pixel spacing", "D07", series(_drop("PixelSpacing")), ".dcm"),
        ("multi-frame without positions", "D07", _old_multi_frame, ".dcm"),
        ("colour slices", "D08", series(each(_colour)), ".dcm"),
        ("secondary captures", "D08", series(_set("SOPClassUID", SECONDARY_CAPTURE)), ".dcm"),
        ("damaged JPEG 2000", "D09", _broken_codestream, ".dcm"),
        ("pixel data cut short", "D09", _truncated_dicom, ".dcm"),
        ("a DICOM file of no bytes", "D09", _zero_bytes, ".dcm"),
        ("no pixel data", "D09", series(_drop("PixelData")), ".dcm"),
        ("MR series", "D10", series(_set("Modality", "MR")), "series"),
        ("localizers only", "D10", series(_set("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])), "series"),
        ("no rescale", "D11", series(_drop("RescaleIntercept")), ".dcm"),
        ("one DICOM slice", "G04", series(lambda made: made[:1]), "series"),
        ("rescale of another scanner", "C02", series(_set("RescaleIntercept", 0.0)), "series"),
    ]  # fmt: skip
    for name, rule, make, file in dcm:
        yield Kind(name, "dicom", rule, make, file)
    lists = [
        ("manifest is no JSON", "M01", _manifest("{half")),
        ("manifest is a list", "M01", _manifest([])),
        ("manifest without cases", "M02", _manifest({"site": "C2"})),
        ("manifest of no case", "M02", _manifest(_site(cases=[]))),
        ("manifest without site", "M02", _manifest({"cases": [entry()]})),
        ("case without image", "M02", _manifest(_site(cases=[{"case_id": "a", "label": "label.nii.gz"}]))),
        ("case with an empty path", "M02", _manifest(_site(cases=[entry(image="")]))),
        ("label is a number", "M02", _manifest(_site(cases=[entry(label=3)]))),
        ("decathlon entry with a misspelt key", "M02", _manifest(_msd(training=[{"image": "image.nii.gz", "labels": "label.nii.gz"}]))),
        ("case listed twice", "M03", _manifest(_site(cases=[entry("a"), entry("a", image="b.nii.gz", label="c.nii.gz")]))),
        ("one file under two cases", "M03", _manifest(_site(cases=[entry("a"), entry("b")]))),
        ("case id is a path", "M04", _manifest(_site(cases=[entry("../a")]))),
        ("excluded case that is not there", "M05", _manifest(_site(excluded=["b"]))),
        ("label values of no class", "M05", _manifest(_site(label_values={"7": 4}))),
        ("accepted rule that is no judgement", "M05", _manifest(_site(cases=[entry(accept=["G05"])]))),
        ("impossible turn of the label", "M05", _manifest(_site(cases=[entry(label_turn="+x+x+z")]))),
        ("decathlon task of another organ", "M05", _manifest(_msd(labels={"0": "background", "1": "liver", "2": "cancer"}))),
    ]
    for name, rule, make in lists:
        yield Kind(name, "manifest", rule, make, "manifest.json")
    yield Kind("same scan under two names", "cohort", "X01", _same_scan_twice, "again.nii.gz")
    yield Kind("one label for two scans", "cohort", "X02", _other_scan_same_label, "copy.nii.gz")


def _axis_orders() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """The patient in all 48 orders of its axes, at the same place."""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            matrix = np.zeros((4, 4))
            matrix[3, 3] = 1
            for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
                matrix[source, axis] = -1 if flip else 1
                matrix[source, 3] = SHAPE[source] - 1 if flip else 0
            turn = tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
            name = "".join("xyz"[source] + "+-"[flip] for source, flip in zip(order, flips, strict=True))
            yield name, *(np.ascontiguousarray(v.array.transpose(order)[turn]) for v in (CT, LABEL)), AFFINE @ matrix


def big_endian(array: np.ndarray, dtype: str):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(dtype)
    return {"array": array.astype(dtype), "header": header, "dtype": np.dtype(dtype)}


def _stretched(factors: tuple[int, int, int], crop, affine):
    """The patient at another resolution: whole multiples of voxels, so that it stays what it is."""

    def make(folder):
        for name, volume in (("image", CT), ("label", LABEL)):
            array = volume.array[crop]
            for axis, factor in enumerate(factors):
                array = np.repeat(array, factor, axis=axis)
            nifti(folder / f"{name}.nii.gz", array, affine)

    return make


def thin_tumour() -> np.ndarray:
    thin = np.where(LABEL.array > 0, 1, 0).astype(np.uint8)
    k = int(np.flatnonzero((LABEL.array == 2).any(axis=(0, 1)))[1])
    thin[:, :, k] = LABEL.array[:, :, k]
    return thin


def _organ_map() -> np.ndarray:
    organs = np.where(LABEL.array == 1, 7, np.where(LABEL.array == 2, 9, 0))
    return np.where((organs == 0) & (CT.array > 80), 5, organs).astype(np.uint8)


def _valid() -> Iterator[Kind]:
    for name, ct, labels, affine in _axis_orders():
        yield Kind(f"axes {name}", "nifti", None, both(ct, labels, affine))
    fine = np.diag([3.0, 3.0, 0.16, 1.0])
    nii = [
        ("oblique", both(affine=turned(8, -5, 12))),
        ("oblique by almost 45 degrees", both(affine=turned(0, 0, 44.9))),
        ("big-endian", lambda f: (nifti(f / "image.nii.gz", **big_endian(CT.array, ">i2")), nifti(f / "label.nii.gz", **big_endian(LABEL.array, ">i2")))),
        ("slope and intercept", _then(both(), image((CT.array + 1024).astype(np.uint16), change=put(112, "<f4", 1.0, -1024.0)))),
        ("slope of a half", _then(both(), image((CT.array * 2).astype(np.int16), change=put(112, "<f4", 0.5, 0.0)))),
        ("CT as float64", _then(both(), image(CT.array.astype(np.float64)))),
        ("label as float64", _then(both(), label(LABEL.array.astype(np.float64)))),
        ("label off by rounding", _then(both(), label((LABEL.array * np.float32(1.000001)).astype(np.float32)))),
        ("label as int64", _then(both(), label(LABEL.array.astype(np.int64)))),
        ("label in another axis order", _then(both(), lambda f: nifti(f / "label.nii.gz", np.ascontiguousarray(LABEL.array[::-1]), AFFINE @ flip_x()))),
        ("affine noise of 1e-8", _then(both(), label(affine=AFFINE + np.random.default_rng(1).normal(0, 1e-8, (4, 4)) * [[1], [1], [1], [0]]))),
        ("origin off by 0.1 mm", _then(both(), label(affine=shifted(0.1, 0, 0)))),
        ("NIfTI-2", both(kind=nibabel.Nifti2Image)),
        ("not compressed", lambda f: (nifti(f / "image.nii", CT.array), nifti(f / "label.nii", LABEL.array)) and {"cases": [entry(image="image.nii", label="label.nii")]}),
        ("not compressed, named .nii.gz", damaged("image.nii.gz", gzip.decompress)),
        ("fourth axis of length one", _then(both(), image(CT.array[..., None]))),
        ("sform only", both(change=lambda raw: (put(252, "<i2", 0)(raw), put(80, "<f4", 1, 1, 1)(raw)))),
        ("qform only", both(change=put(254, "<i2", 0))),
        ("unit unknown", both(change=put(123, "u1", 0))),
        ("tumour of one slice", _then(both(), label(thin_tumour()))),
        ("no tumour", _then(both(), label((LABEL.array > 0).astype(np.uint8)))),
        ("padding of -3024 HU", _then(both(), image(np.where(CT.array < -900, -3024, CT.array).astype(np.int16)))),
        ("metal of 30000 HU", _then(both(), image(with_values(CT.array, np.s_[40:43, 20:22, 12:14], 30000)))),
        ("CT cut off at -200 and 250 HU", _then(both(), image(np.clip(CT.array, -200, 250)))),
        ("slices of 0.16 mm", _stretched((1, 1, 20), np.s_[:, :, 8:18], fine)),
        ("1200 slices", _stretched((1, 1, 50), np.s_[8:56, 6:48, 2:26], np.diag([3.0, 3.0, 0.1, 1.0]))),
        ("organ map", _then(both(), label(_organ_map()), lambda f: {"label_values": {"7": 1, "9": 2}})),
        ("scan without label", lambda f: image()(f) or {"cases": [entry(label=None)]}),
        ("wrong label, excluded", lambda f: (both()(f), nifti(f / "b.nii.gz", moved(CT.array, 3, 0, 0))) and {"cases": [entry(), entry("b", image="b.nii.gz", label="none.nii.gz")], "excluded": ["b"]}),
        ("flipped label, accepted", _then(both(), label(LABEL.array[::-1].copy()), lambda f: {"cases": [entry(accept=["C06"])]})),
    ]  # fmt: skip
    for name, make in nii:
        yield Kind(name, "nifti", None, make)
    dcm = [
        ("DICOM series", series()),
        ("DICOM as RLE", series(syntax="1.2.840.10008.1.2.5")),
        ("DICOM as JPEG 2000", series(syntax="1.2.840.10008.1.2.4.90")),
        ("DICOM as JPEG-LS", series(syntax="1.2.840.10008.1.2.4.80")),
        ("enhanced multi-frame DICOM", _enhanced),
        ("DICOM beside a localizer", series(lambda made: [*made, _localizer()])),
        ("DICOM series by name", _then(_two_series, lambda f: {"cases": [entry(image="series", series="1.2.826.0.1.1")]})),
        ("DICOM from feet to head", series(lambda made: made[::-1])),
    ]
    for name, make in dcm:
        yield Kind(name, "dicom", None, make)
    yield Kind("decathlon dataset as it is", "manifest", None, _manifest(_msd(test=["./imagesTs/._pancreas_1.nii.gz"])))
    yield Kind("manifest with further keys", "manifest", None, _manifest(_site(licence="CC BY 4.0")))


def _localizer():
    ds = blank("1.2.3", number=1, rows=8, columns=8)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.PixelData = bytes(128)
    return ds


MALFORMED: tuple[Kind, ...] = tuple(_malformed())
VALID: tuple[Kind, ...] = tuple(_valid())


def write_kind(kind: Kind, folder: pathlib.Path) -> pathlib.Path:
    """Writes a kind into a folder and returns the path of its manifest."""
    folder.mkdir(parents=True)
    changes = kind.make(folder)
    path = folder / "manifest.json"
    if not path.exists():
        path.write_text(json.dumps(_site(**(changes if isinstance(changes, dict) else {}))))
    return path


def write_all(folder: pathlib.Path) -> None:
    index = []
    for number, kind in enumerate((*MALFORMED, *VALID)):
        path = write_kind(kind, folder / f"{number:03d}")
        index.append({"name": kind.name, "group": kind.group, "rule": kind.rule, "manifest": str(path.relative_to(folder))})
    (folder / "corpus.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    write_all(pathlib.Path(sys.argv[1]))
