"""Inputs that must be refused, each with the rule that refuses it."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator

import nibabel
import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from preprocessing.volume import Volume
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
    flip_byte,
    flip_x,
    image,
    label,
    listing,
    moved,
    nifti,
    put,
    series,
    shifted,
    site,
    tall_affine,
    then,
    turned,
    two_series,
    with_values,
    write,
)
from tests.preprocessing.dicom_files import SECONDARY_CAPTURE, enhanced, save, slices

SHEARED = tall_affine([[3.0, 0, 0], [0, 3.0, 1.0], [0, 0, 5.0]])
SRS = 280  # byte of srow_x in a NIfTI-1 header
HALO = np.where(LABEL.array > 0, 0.999, 0.0).astype(np.float32)
FAR_TUMOUR = np.where(LABEL.array == 1, 1, 0).astype(np.uint8)
FAR_TUMOUR[50:53, 30:33, 23:26] = 2


def _other_scan_same_label(folder):
    both()(folder)
    nifti(
        folder / "other.nii.gz",
        CT.array + np.random.default_rng(8).integers(-20, 20, SHAPE, np.int16),
    )
    (folder / "copy.nii.gz").write_bytes((folder / "label.nii.gz").read_bytes())
    return {"cases": [entry("first"), entry("second", image="other.nii.gz", label="copy.nii.gz")]}


def _same_scan_twice(folder):
    both()(folder)
    # saved by other software: another axis order, as float, and ten slices less
    nifti(
        folder / "again.nii.gz",
        CT.array[::-1, :, :-10].astype(np.float32),
        AFFINE @ flip_x(),
        dtype=np.float32,
    )
    nifti(folder / "again_label.nii.gz", LABEL.array[::-1, :, :-10], AFFINE @ flip_x())
    return {
        "cases": [entry("first"), entry("second", image="again.nii.gz", label="again_label.nii.gz")]
    }


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


def _on_last(damage):
    def make(folder):
        found = series()(folder)
        damage(sorted((folder / "series").iterdir())[-1])
        return found

    return make


def _raw(tag, representation, value, only=None):
    """Puts bytes into an attribute as they are."""

    def edit(ds, k):
        if only in (None, k):
            ds[tag] = RawDataElement(
                BaseTag(tag), representation, len(value), value, 0, False, True
            )

    return each(edit)


def _frames(edit):
    def make(folder):
        label()(folder)
        made = enhanced(CT)
        edit(made)
        save(folder / "series", [made])
        return {"cases": [entry(image="series")]}

    return make


def _second_acquisition(shift_mm):
    def change(made):
        affine = AFFINE.copy()
        affine[2, 3] += shift_mm
        again = slices(Volume(CT.array + np.int16(40), affine))
        for number, passed in enumerate((made, again), start=1):
            for k, ds in enumerate(passed):
                ds.AcquisitionNumber, ds.InstanceNumber = number, 100 * number + k
        return [*made, *again]

    return change


def _zip(name):
    def make(folder):
        series()(folder)
        with zipfile.ZipFile(folder / "series.zip", "w") as archive:
            for path in sorted((folder / "series").iterdir()):
                archive.write(path, path.name)
            archive.writestr(name, b"x")
        return {"cases": [entry(image="series.zip")]}

    return make


def _unknown_syntax(folder):
    found = series()(folder)
    for path in (folder / "series").iterdir():
        path.write_bytes(
            path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0", 1)
        )
    return found


def _truncated_dicom(folder):
    found = series()(folder)
    path = sorted((folder / "series").iterdir())[3]
    path.write_bytes(path.read_bytes()[:-900])
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


def malformed() -> Iterator[Kind]:
    nii = [
        ("no image", "F01", label()),
        ("no label", "F01", image(), "label.nii.gz"),
        ("image is an empty file", "F02", then(both(), write("image.nii.gz", b""))),
        (
            "image is a text file",
            "F02",
            then(both(), write("image.nii.gz", b"see the archive\n" * 40)),
        ),
        (
            "image is an AppleDouble file",
            "F02",
            then(both(), write("image.nii.gz", b"\x00\x05\x16\x07" + bytes(400))),
        ),
        (
            "image is half of a .hdr/.img pair",
            "F02",
            then(
                both(),
                lambda f: nibabel.save(nibabel.Nifti1Pair(CT.array, AFFINE), f / "pair.hdr"),
                lambda f: {"cases": [entry(image="pair.hdr")]},
            ),
            "pair.hdr",
        ),
        (
            "image cut in its compressed data",
            "F03",
            damaged("image.nii.gz", lambda c: c[: len(c) * 2 // 3]),
        ),
        (
            "label cut in its compressed data",
            "F03",
            damaged("label.nii.gz", lambda c: c[: len(c) * 2 // 3]),
            "label.nii.gz",
        ),
        (
            "image cut before it was compressed",
            "F03",
            damaged("image.nii.gz", lambda c: gzip.compress(gzip.decompress(c)[:-5000])),
        ),
        (
            "image with a flipped bit",
            "F04",
            damaged("image.nii.gz", lambda c: c[:-8] + flip_byte(c[-8:])),
        ),
        (
            "something behind the compressed data",
            "F04",
            damaged("image.nii.gz", lambda c: c + b"\x12\x34 notes of the archive"),
        ),
        (
            "something behind padding",
            "F04",
            damaged("image.nii.gz", lambda c: c + bytes(300) + b"x"),
        ),
        (
            "second compressed member cut short",
            "F03",
            damaged("image.nii.gz", lambda c: c + c[:300]),
        ),
        ("image compressed twice", "F02", damaged("image.nii.gz", gzip.compress)),
        (
            "voxels said to begin inside the header",
            "F02",
            then(both(), image(change=put(108, "<f4", 100))),
        ),
        ("voxels said to begin at byte 0", "F02", then(both(), image(change=put(108, "<f4", 0)))),
        (
            "voxels said to begin nowhere",
            "F02",
            then(both(), image(change=put(108, "<f4", np.nan))),
        ),
        ("data type unknown", "F05", then(both(), image(change=put(70, "<i2", 77)))),
        (
            "slope of 0 beside an intercept",
            "F08",
            then(both(), image(change=put(112, "<f4", 0, -1024))),
        ),
        ("slope that is almost 0", "F08", then(both(), image(change=put(112, "<f4", 1e-30)))),
        ("unit of length unknown", "G02", then(both(), image(change=put(123, "u1", 5)))),
        ("no orientation in image and label", "G01", both(change=put(252, "<i2", 0, 0))),
        (
            "no orientation in the label",
            "G01",
            then(both(), label(change=put(252, "<i2", 0, 0))),
            "label.nii.gz",
        ),
        (
            "quaternion far too long",
            "G01",
            both(change=lambda raw: (put(252, "<i2", 1, 0)(raw), put(256, "<f4", 0, 0, 1.2)(raw))),
        ),
        (
            "image in colour",
            "F05",
            then(
                both(),
                lambda f: nifti(
                    f / "image.nii.gz", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
                ),
            ),
        ),
        ("image is complex", "F05", then(both(), image(CT.array.astype(np.complex64)))),
        ("image has two dimensions", "F06", then(both(), image(CT.array[:, :, 9]))),
        ("image has two volumes", "F06", then(both(), image(np.stack([CT.array] * 2, axis=3)))),
        (
            "image has a NaN",
            "F07",
            then(both(), image(with_values(CT.array.astype(np.float32), (9, 9, 9), np.nan))),
        ),
        (
            "image has an infinite voxel",
            "F07",
            then(both(), image(with_values(CT.array.astype(np.float32), (9, 9, 9), -np.inf))),
        ),
        (
            "label has a NaN",
            "F07",
            then(both(), label(with_values(LABEL.array.astype(np.float32), (9, 9, 9), np.nan))),
            "label.nii.gz",
        ),
        ("intercept is infinite", "F08", then(both(), image(change=put(112, "<f4", 1.0, np.inf)))),
        ("affine is all zero", "G01", then(both(), image(change=put(SRS, "<f4", *[0] * 12)))),
        ("affine has a NaN", "G01", then(both(), image(change=put(SRS, "<f4", np.nan)))),
        (
            "affine has two equal axes",
            "G01",
            then(
                both(),
                image(
                    change=lambda raw: (
                        put(SRS, "<f4", 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0)(raw),
                        put(252, "<i2", 0)(raw),
                    )
                ),
            ),
        ),
        ("lengths in micrometres", "G02", then(both(), image(change=put(123, "u1", 3)))),
        ("spacing of 50 mm", "G03", both(affine=np.diag([3.0, 3, 50, 1]))),
        ("spacing in metres", "G03", both(affine=np.diag([0.003, 0.003, 0.005, 1]))),
        ("a single slice", "G04", both(CT.array[:, :, 12:13], LABEL.array[:, :, 12:13])),
        (
            "label has one slice less",
            "G05",
            then(both(), label(LABEL.array[:, :, :-1])),
            "label.nii.gz",
        ),
        (
            "label has exchanged axes",
            "G05",
            then(both(), label(LABEL.array.transpose(1, 0, 2))),
            "label.nii.gz",
        ),
        (
            "label's origin off by one voxel",
            "G06",
            then(both(), label(affine=shifted(3, 0, 0))),
            "label.nii.gz",
        ),
        (
            "label without an affine",
            "G06",
            then(both(), label(affine=np.diag([3.0, 3, 5, 1]))),
            "label.nii.gz",
        ),
        (
            "label's spacing off by 5 %",
            "G06",
            then(both(), label(affine=AFFINE @ np.diag([1.05, 1, 1, 1]))),
            "label.nii.gz",
        ),
        (
            "label turned by 10 degrees",
            "G06",
            then(both(), label(affine=turned(0, 0, 10))),
            "label.nii.gz",
        ),
        (
            "label mirrored in its header only",
            "G06",
            then(both(), label(affine=AFFINE @ np.diag([-1.0, 1, 1, 1]))),
            "label.nii.gz",
        ),
        (
            "sform and qform 12 mm apart",
            "G07",
            then(
                both(),
                image(change=lambda raw: (put(252, "<i2", 1)(raw), put(268, "<f4", -83.0)(raw))),
            ),
        ),
        (
            "pixdim and sform differ",
            "G07",
            then(
                both(),
                image(
                    change=lambda raw: (put(252, "<i2", 0)(raw), put(80, "<f4", 0.7, 0.7, 5.0)(raw))
                ),
            ),
        ),
        ("sheared axes", "G08", both(affine=SHEARED)),
        ("label values of 0.999", "L01", then(both(), label(HALO)), "label.nii.gz"),
        (
            "label is a probability map",
            "L01",
            then(
                both(), label(HALO * np.linspace(0, 1, SHAPE[0], dtype=np.float32)[:, None, None])
            ),
            "label.nii.gz",
        ),
        (
            "label has a 3",
            "L02",
            then(both(), label(with_values(LABEL.array, (20, 20, 10), 3))),
            "label.nii.gz",
        ),
        (
            "label of 0 and 255",
            "L02",
            then(both(), label((LABEL.array > 0).astype(np.uint8) * 255)),
            "label.nii.gz",
        ),
        (
            "label has a -1",
            "L02",
            then(both(), label(with_values(LABEL.array.astype(np.int16), (20, 20, 10), -1))),
            "label.nii.gz",
        ),
        ("label is empty", "L03", then(both(), label(np.zeros(SHAPE, np.uint8))), "label.nii.gz"),
        (
            "label is inverted",
            "L04",
            then(both(), label((LABEL.array == 0).astype(np.uint8))),
            "label.nii.gz",
        ),
        ("tumour far from the pancreas", "L05", then(both(), label(FAR_TUMOUR)), "label.nii.gz"),
        (
            "tumour without pancreas",
            "L05",
            then(both(), label(np.where(LABEL.array > 0, 2, 0).astype(np.uint8))),
            "label.nii.gz",
        ),
        ("image is a label map", "C01", then(both(), image(LABEL.array))),
        (
            "image shows 0 to 255",
            "C01",
            then(both(), image(np.clip((CT.array + 160) / 400 * 255, 0, 255).astype(np.uint8))),
        ),
        ("image is air only", "C01", then(both(), image(np.full(SHAPE, -1024, np.int16)))),
        ("HU plus 1024", "C02", then(both(), image(CT.array + 1024))),
        ("HU minus 1024", "C02", then(both(), image(CT.array - 1024))),
        ("image and label exchanged", "C03", both(LABEL.array, CT.array), "label.nii.gz"),
        ("image listed as label", "C03", then(both(), label(CT.array)), "label.nii.gz"),
        (
            "label in the air",
            "C04",
            then(both(), label(with_values(np.zeros(SHAPE, np.uint8), np.s_[2:6, 2:8, 5:20], 1))),
            "label.nii.gz",
        ),
        (
            "label on the spine",
            "C05",
            then(
                both(), label(with_values(np.zeros(SHAPE, np.uint8), np.s_[29:35, 9:13, 5:20], 1))
            ),
            "label.nii.gz",
        ),
        *(
            (
                f"label's voxels mirrored {name}",
                "C06",
                then(both(), label(np.ascontiguousarray(np.flip(LABEL.array, axes)))),
                "label.nii.gz",
            )
            for name, axes in (
                ("left-right", 0),
                ("front-back", 1),
                ("head-feet", 2),
                ("in plane", (0, 1)),
            )
        ),
        *(
            (
                f"label's voxels moved by {by}",
                rule,
                then(both(), label(moved(LABEL.array, *by))),
                "label.nii.gz",
            )
            for by, rule in (
                ((8, 0, 0), "C07"),
                ((-8, 0, 0), "C05"),
                ((0, 0, 5), "C05"),
                ((0, -6, 0), "C05"),
            )
        ),
    ]
    for name, rule, make, *file in nii:
        yield Kind(name, "nifti", rule, make, *file)
    dcm = [
        (
            "folder does not exist",
            "F01",
            then(label(), lambda f: {"cases": [entry(image="series")]}),
            "series",
        ),
        ("folder without DICOM", "D01", _empty_folder, "series"),
        ("two series in a folder", "D02", two_series, "series"),
        ("series that is not there", "D02", series(series="1.9.9"), "series"),
        ("slice of another size", "D03", series(each(_resize)), ".dcm"),
        (
            "slice of another orientation",
            "D03",
            series(_set("ImageOrientationPatient", [0, -1, 0, 1, 0, 0], 5)),
            ".dcm",
        ),
        (
            "slice of another pixel spacing",
            "D03",
            series(_set("PixelSpacing", [2.0, 2.0], 5)),
            ".dcm",
        ),
        ("missing slice", "D04", series(lambda made: made[:9] + made[10:]), "series"),
        ("four missing slices", "D04", series(lambda made: made[:9] + made[13:]), "series"),
        (
            "last slice far away",
            "D04",
            series(
                each(
                    lambda ds, k: (
                        setattr(ds, "ImagePositionPatient", [*ds.ImagePositionPatient[:2], 300.0])
                        if k == 27
                        else None
                    )
                )
            ),
            "series",
        ),
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
        (
            "last slice of no bytes and no suffix",
            "D09",
            _on_last(lambda path: (path.unlink(), path.with_suffix("").write_bytes(b""))),
            f"/series/{max((k * 7919 + 13) % 10007 for k in range(28)):05d}",
        ),
        (
            "first slices cut short in their header",
            "D09",
            _on_last(lambda path: path.write_bytes(path.read_bytes()[:700])),
            ".dcm",
        ),
        (
            "link to a slice that is not there",
            "F01",
            _on_last(lambda path: (path.unlink(), path.symlink_to("/nowhere/slice.dcm"))),
            ".dcm",
        ),
        ("slice marked as MR", "D03", series(_set("Modality", "MR", 27)), ".dcm"),
        (
            "more frames than functional groups",
            "D07",
            _frames(lambda ds: ds.PerFrameFunctionalGroupsSequence.pop()),
            ".dcm",
        ),
        (
            "fewer frames than functional groups",
            "D07",
            _frames(lambda ds: setattr(ds, "NumberOfFrames", 27)),
            ".dcm",
        ),
        (
            "frame without a position",
            "D07",
            _frames(
                lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[4], "PlanePositionSequence")
            ),
            ".dcm",
        ),
        ("one value in PixelSpacing", "D12", series(_raw(0x00280030, "DS", b"3.000000")), ".dcm"),
        (
            "decimal commas in PixelSpacing",
            "D12",
            series(_raw(0x00280030, "DS", b"3,0\\3,0 ")),
            ".dcm",
        ),
        (
            "PixelSpacing is not finite",
            "D12",
            series(_raw(0x00280030, "DS", b"3.0\\inf ", 5)),
            ".dcm",
        ),
        (
            "decimal comma in RescaleSlope",
            "D12",
            series(_raw(0x00281053, "DS", b"1,0 ", 4)),
            ".dcm",
        ),
        (
            "RescaleSlope as a double",
            "D12",
            series(_raw(0x00281053, "FD", bytes(6) + b"\xf0?", 4)),
            ".dcm",
        ),
        ("empty Rows", "D12", series(_raw(0x00280010, "US", b"", 4)), ".dcm"),
        ("two values in Rows", "D12", series(_raw(0x00280010, "US", b"\x36\0\x36\0")), ".dcm"),
        ("huge position", "D12", series(_raw(0x00200032, "DS", b"0\\0\\1e300", 9)), ".dcm"),
        ("unknown transfer syntax", "D09", _unknown_syntax, ".dcm"),
        ("two acquisitions at the same places", "D13", series(_second_acquisition(0.0)), "series"),
        ("two acquisitions half a slice apart", "D13", series(_second_acquisition(2.5)), "series"),
        ("fewer slices than the label", "G05", series(lambda made: made[:24]), "series"),
        ("zip with a name that leads out of it", "D16", _zip("../series.dcm"), "series.zip"),
        ("MR series", "D10", series(_set("Modality", "MR")), "series"),
        (
            "localizers only",
            "D10",
            series(_set("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])),
            "series",
        ),
        ("no rescale", "D11", series(_drop("RescaleIntercept")), ".dcm"),
        ("one DICOM slice", "G04", series(lambda made: made[:1]), "series"),
        ("rescale of another scanner", "C02", series(_set("RescaleIntercept", 0.0)), "series"),
    ]
    for name, rule, make, file in dcm:
        yield Kind(name, "dicom", rule, make, file)
    lists = [
        ("manifest is no JSON", "M01", listing("{half")),
        ("manifest is a list", "M01", listing([])),
        ("manifest without cases", "M02", listing({"site": "C2"})),
        ("manifest of no case", "M02", listing(site(cases=[]))),
        ("manifest without site", "M02", listing({"cases": [entry()]})),
        (
            "case without image",
            "M02",
            listing(site(cases=[{"case_id": "a", "label": "label.nii.gz"}])),
        ),
        ("case with an empty path", "M02", listing(site(cases=[entry(image="")]))),
        ("label is a number", "M02", listing(site(cases=[entry(label=3)]))),
        (
            "decathlon entry with a misspelt key",
            "M02",
            listing(decathlon(training=[{"image": "image.nii.gz", "labels": "label.nii.gz"}])),
        ),
        (
            "case listed twice",
            "M03",
            listing(site(cases=[entry("a"), entry("a", image="b.nii.gz", label="c.nii.gz")])),
        ),
        ("one file under two cases", "M03", listing(site(cases=[entry("a"), entry("b")]))),
        ("case id is a path", "M04", listing(site(cases=[entry("../a")]))),
        ("excluded case that is not there", "M05", listing(site(excluded=["b"]))),
        ("label values of no class", "M05", listing(site(label_values={"7": 4}))),
        ("accepted rule that is no judgement", "M05", listing(site(cases=[entry(accept=["G05"])]))),
        ("impossible orientation", "M05", listing(site(cases=[entry(orientation="RRS")]))),
        (
            "nnU-Net dataset of another organ",
            "M05",
            listing({"labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}),
        ),
        ("impossible turn of the label", "M05", listing(site(cases=[entry(label_turn="+x+x+z")]))),
        (
            "decathlon task of another organ",
            "M05",
            listing(decathlon(labels={"0": "background", "1": "liver", "2": "cancer"})),
        ),
    ]
    for name, rule, make in lists:
        yield Kind(name, "manifest", rule, make, "manifest.json")
    yield Kind("same scan under two names", "cohort", "X01", _same_scan_twice, "again.nii.gz")
    yield Kind("one label for two scans", "cohort", "X02", _other_scan_same_label, "copy.nii.gz")
