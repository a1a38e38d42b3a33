"""Seeded series with faults in their headers, written byte by byte so that no library fixes them.

A series starts as one that every reader can read (explicit or implicit, with or without a preamble,
compressed, one multi-frame file) and is then changed in one or two places.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import random
import struct
from collections.abc import Callable

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import enhanced, slices

SHAPE = (18, 14, 8)
AFFINE = np.array([[-0.8, 0, 0, 40.5], [0, -0.9, 0, 20.25], [0, 0, 2.5, -30.0], [0, 0, 0, 1.0]])
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")
_FORMS = (
    "explicit",
    "explicit",
    "explicit",
    "implicit",
    "bare",
    "rle",
    "multi-frame",
    "signed",
    "padded",
    "slopes",
)
_LOOKED_AT = (
    "Modality",
    "ImageType",
    "SOPClassUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "AcquisitionNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "NumberOfFrames",
    "PixelData",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelPaddingValue",
)
_TEXTS = (
    b"",
    b" ",
    b"\\",
    b"1,0",
    b"1,5\\1,5",
    b"nan",
    b"inf",
    b"-inf",
    b"1e400",
    b"1e30",
    b"-1",
    b"0",
    b"0\\0",
    b"1\\2\\3\\4\\5\\6\\7",
    b"abc",
    b"1.0.0",
    b"\0\0",
    b"1\0 2",
    b"99999999999",
    b"1_0",
    b"0x10",
    b"1.5\\1.5",
    b"2",
    b"-1024",
    b"1\\0\\0\\0\\1\\0",
    b"0\\1\\0\\1\\0\\0",
    b"\xff\xfe",
    b"CT",
    b"MR",
    b"MONOCHROME1",
    b"RGB",
    b"1e-30",
    b" 1 ",
    b"+1",
    b"1.",
    b".5",
    b"--1",
)
_SYNTAXES = (
    b"1.2.840.10008.1.2",
    b"1.2.840.10008.1.2.1",
    b"1.2.840.10008.1.2.2",
    b"1.2.840.10008.1.2.1.99",
    b"1.2.840.10008.1.2.4.50",
    b"1.2.840.10008.1.2.4.70",
    b"1.2.840.10008.1.2.4.90",
    b"1.2.840.10008.1.2.5",
    b"1.2.3.4.5",
    b"",
    b"abc",
)


@dataclasses.dataclass
class Element:
    """One attribute as bytes.

    Attributes:
      items: of a sequence.
      claimed: length that the file declares; None for the true one.
    """

    tag: int
    representation: bytes
    value: bytes
    items: list[list[Element]] | None = None
    claimed: int | None = None

    def encoded(self, implicit: bool) -> bytes:
        value = self.value
        if self.items is not None:
            bodies = [encoded(item, implicit) for item in self.items]
            value = b"".join(
                struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body for body in bodies
            )
        if len(value) % 2:
            value += b" "
        length = len(value) if self.claimed is None else self.claimed
        head = struct.pack("<HH", self.tag >> 16, self.tag & 0xFFFF)
        if implicit:
            return head + struct.pack("<I", length % 2**32) + value
        if self.representation in _LONG:
            return head + self.representation + b"\0\0" + struct.pack("<I", length % 2**32) + value
        return head + self.representation + struct.pack("<H", length % 2**16) + value


@dataclasses.dataclass
class File:
    """A file of a series: its attributes, and the changes to its bytes."""

    elements: list[Element]
    meta: list[Element]
    implicit: bool = False
    bare: bool = False
    damage: Callable[[bytes], bytes] | None = None

    def encoded(self) -> bytes:
        body = encoded(self.elements, self.implicit)
        if not self.bare:
            meta = encoded(self.meta, False)
            body = (
                bytes(128)
                + b"DICM"
                + Element(0x00020000, b"UL", struct.pack("<I", len(meta))).encoded(False)
                + meta
                + body
            )
        return body if self.damage is None else self.damage(body)


def encoded(elements: list[Element], implicit: bool) -> bytes:
    return b"".join(element.encoded(implicit) for element in elements)


def volume(seed: int = 7) -> Volume:
    """Returns the CT of a series: soft tissue in air, every voxel different."""
    rng = np.random.default_rng(seed)
    array = rng.integers(-60, 240, SHAPE)
    array[:3], array[-3:] = rng.integers(-1020, -900, (2, 3, *SHAPE[1:]))
    return Volume(array.astype(np.int16), AFFINE)


def label() -> np.ndarray:
    """Returns an organ with a tumour on the grid of every series, uint8."""
    found = np.zeros(SHAPE, np.uint8)
    found[6:12, 4:10, 2:6], found[8:10, 6:8, 3:5] = 1, 2
    return found


def write(folder: pathlib.Path, seed: int, voxels: int = 7) -> str:
    """Writes a series into a new folder and returns a description of its fault.

    Args:
      voxels: seed of its voxels.
    """
    rng = random.Random(seed)
    form = rng.choice(_FORMS)
    files = _series(form, voxels)
    done = [form]
    for _ in range(1 if rng.random() < 0.8 else 2):
        chosen = rng.choices(
            [[rng.randrange(len(files))], [0], [len(files) - 1], list(range(len(files)))],
            (5, 1, 2, 3),
        )[0]
        done.append(_mutate(files, chosen, rng) + f" of {len(chosen)}")
    folder.mkdir(parents=True)
    named = rng.choice(("IM{:04d}.dcm", "IM{:04d}", "1.2.840.{:d}", "{:03d}.IMA"))
    for number, file in enumerate(files):
        (folder / named.format(number)).write_bytes(file.encoded())
    _lose(folder, rng, done)
    return ", ".join(done)


def _series(form: str, voxels: int) -> list[File]:
    ct = volume(voxels)
    if form == "multi-frame":
        made = [enhanced(ct)]
    elif form == "signed":
        made = slices(ct, intercept=0.0, stored_as="<i2")
    elif form == "slopes":
        made = slices(ct)
        made[2:4] = slices(ct, slope=0.5, intercept=-2000.0)[2:4]
    else:
        made = slices(ct)
    for number, ds in enumerate(made):
        ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.AcquisitionNumber = (
            "1.2.826.0.1.7",
            "1.2.826.0.1.8",
            1,
        )
        ds.SOPInstanceUID = f"1.2.826.0.1.9.{number}"
        if form == "padded":
            pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).copy()
            pixels[:2, :2] = 63536
            ds.PixelData = pixels.tobytes()
            ds.add_new("PixelPaddingValue", "US", 63536)
        if form == "rle":
            ds.compress(RLELossless, generate_instance_uid=False)
    syntax = {"rle": b"1.2.840.10008.1.2.5", "implicit": b"1.2.840.10008.1.2"}.get(
        form, b"1.2.840.10008.1.2.1"
    )
    return [_file(ds, syntax, form) for ds in made]


def _file(ds: pydicom.Dataset, syntax: bytes, form: str) -> File:
    buffer = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID or ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    content = buffer.getvalue()
    (length,) = struct.unpack("<I", content[140:144])
    uid = f"{ds.SOPClassUID}".encode(), f"{ds.SOPInstanceUID}".encode()
    meta = [
        Element(0x00020002, b"UI", _even(uid[0])),
        Element(0x00020003, b"UI", _even(uid[1])),
        Element(0x00020010, b"UI", _even(syntax)),
    ]
    return File(
        _parsed(content[144 + length :]),
        meta,
        implicit=form in ("implicit", "bare"),
        bare=form == "bare",
    )


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def _parsed(content: bytes) -> list[Element]:
    """Parses a data set in explicit little endian; encapsulated pixels stay one value."""
    elements, at = [], 0
    while at < len(content):
        group, number, representation = struct.unpack("<HH2s", content[at : at + 6])
        wide = representation in _LONG
        (length,) = (
            struct.unpack("<I", content[at + 8 : at + 12])
            if wide
            else struct.unpack("<H", content[at + 6 : at + 8])
        )
        at += 12 if wide else 8
        claimed = None
        if length == 0xFFFFFFFF:
            length, claimed = len(content) - at, length
        value = content[at : at + length]
        at += length
        items = _items(value) if representation == b"SQ" else None
        elements.append(Element(group << 16 | number, representation, value, items, claimed))
    return elements


def _items(value: bytes) -> list[list[Element]]:
    items, at = [], 0
    while at < len(value):
        (length,) = struct.unpack("<I", value[at + 4 : at + 8])
        items.append(_parsed(value[at + 8 : at + 8 + length]))
        at += 8 + length
    return items


def _mutate(files: list[File], chosen: list[int], rng: random.Random) -> str:
    kind = rng.choices(
        (
            _text,
            _count,
            _delete,
            _representation,
            _number,
            _nudge,
            _repeat,
            _length,
            _cut,
            _private,
            _syntax,
            _meta,
            _flip,
        ),
        (6, 3, 4, 4, 4, 4, 1, 2, 3, 2, 2, 1, 3),
    )[0]
    name = rng.choice(_LOOKED_AT)
    seed = rng.random()
    for number in chosen:  # the same change in each of the files
        kind(files[number], name, random.Random(seed))
    return f"{kind.__name__.lstrip('_')} {name}"


def _found(file: File, name: str, rng: random.Random) -> tuple[list[Element], Element]:
    """Returns an attribute and its data set; another one if the file has none of that name."""
    there = list(_walk(file.elements))
    tag = int(pydicom.tag.Tag(name))
    named = [pair for pair in there if pair[1].tag == tag]
    return rng.choice(named or there)


def _walk(elements: list[Element]):
    for element in elements:
        yield elements, element
        for item in element.items or []:
            yield from _walk(item)


def _text(file: File, name: str, rng: random.Random) -> None:
    _, element = _found(file, name, rng)
    element.value, element.items = rng.choice(_TEXTS), None


def _count(file: File, name: str, rng: random.Random) -> None:
    _, element = _found(file, name, rng)
    if element.items is not None:
        element.items[:] = rng.choice((element.items[:-1], element.items * 2, []))
        return
    parts = element.value.split(b"\\")
    element.value = b"\\".join(rng.choice((parts[:-1], parts + parts[:1], parts[:1])))


def _delete(file: File, name: str, rng: random.Random) -> None:
    holder, element = _found(file, name, rng)
    holder.remove(element)


def _representation(file: File, name: str, rng: random.Random) -> None:
    _, element = _found(file, name, rng)
    element.representation = rng.choice(
        (
            b"UT",
            b"LO",
            b"US",
            b"SS",
            b"FD",
            b"FL",
            b"UN",
            b"OB",
            b"SQ",
            b"IS",
            b"DS",
            b"XX",
            b"\0\0",
            b"UL",
        )
    )


def _number(file: File, name: str, rng: random.Random) -> None:
    shorts = [
        name
        for name in _LOOKED_AT
        if name in ("Rows", "Columns") or name.startswith(("Bits", "High", "Samples", "PixelRep"))
    ]
    _, element = _found(file, rng.choice(shorts), rng)
    old = struct.unpack("<H", element.value[:2])[0] if len(element.value) >= 2 else 0
    value = (
        rng.choice((0, 1, 2, 7, 8, 12, 15, 16, 32, old + 1, old - 1, old * 2, old // 2, 65535))
        % 65536
    )
    element.value = rng.choice(
        (struct.pack("<H", value),) * 4
        + (struct.pack("<I", value), struct.pack("<HH", value, value), b"", b"\1")
    )


def _nudge(file: File, name: str, rng: random.Random) -> None:
    """Changes a number of the geometry or the rescale to another one that is valid by itself."""
    chosen = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
        "SliceThickness",
    )
    _, element = _found(file, rng.choice(chosen), rng)
    parts = element.value.strip(b" \0").split(b"\\")
    which = rng.randrange(len(parts))
    try:
        old = float(parts[which])
    except ValueError:
        return
    parts[which] = str(
        round(
            rng.choice((old + 0.4, old - 1.3, old * 2, -old, old + 1e-4, old * 1000, old + 2.5)), 5
        )
    ).encode()
    element.value = b"\\".join(parts)


def _repeat(file: File, name: str, rng: random.Random) -> None:
    holder, element = _found(file, name, rng)
    holder.insert(rng.randrange(len(holder) + 1), dataclasses.replace(element))


def _length(file: File, name: str, rng: random.Random) -> None:
    _, element = _found(file, name, rng)
    element.claimed = rng.choice(
        (
            0,
            1,
            len(element.value) - 1,
            len(element.value) + 2,
            len(element.value) + 100,
            0xFFFF,
            0x7FFFFFFF,
            0xFFFFFFFF,
        )
    )


def _cut(file: File, name: str, rng: random.Random) -> None:
    share, way = rng.random(), rng.randrange(4)
    ways = (
        lambda content: content[: int(share * len(content))],
        lambda content: content[: int(share * 400)],
        lambda content: bytes(len(content)) if share < 0.5 else b"",
        lambda content: content[: len(content) - int(share * 300)],
    )
    file.damage = ways[way]


def _private(file: File, name: str, rng: random.Random) -> None:
    content = rng.choice(
        (
            b"",
            b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
            rng.randbytes(40),
            struct.pack("<HHI", 0xFFFE, 0xE000, 500) + b"12",
        )
    )
    claimed = rng.choice((None, None, 0xFFFFFFFF, 10_000))
    garbage = Element(
        0x00091010, rng.choice((b"SQ", b"UN", b"OB", b"LO", b"DS", b"US")), content, None, claimed
    )
    at = rng.randrange(len(file.elements))
    file.elements[at:at] = [Element(0x00090010, b"LO", b"SOMEONE"), garbage]


def _syntax(file: File, name: str, rng: random.Random) -> None:
    for element in file.meta:
        if element.tag == 0x00020010:
            element.value = _even(rng.choice(_SYNTAXES))


def _meta(file: File, name: str, rng: random.Random) -> None:
    if rng.random() < 0.5:
        file.bare = not file.bare
    else:
        file.meta.pop(rng.randrange(len(file.meta)))


def _flip(file: File, name: str, rng: random.Random) -> None:
    places = [(rng.random(), rng.randrange(1, 256)) for _ in range(rng.choice((1, 1, 3, 20)))]

    def damage(content: bytes) -> bytes:
        changed = bytearray(content)
        for share, bits in places:
            changed[int(share * max(1, len(changed) - 560))] ^= (
                bits  # the header, and a little of the pixels
            )
        return bytes(changed)

    file.damage = damage


def _lose(folder: pathlib.Path, rng: random.Random, done: list[str]) -> None:
    """Sometimes removes a file, at an end or in the middle, or replaces it with a dangling link."""
    way = rng.randrange(20)
    if way > 2:
        return
    files = sorted(folder.iterdir())
    file = rng.choice((files[0], files[-1], rng.choice(files)))
    if way == 0 and len(files) > 2:
        file.unlink()
        done.append("a file lost")
    elif way == 1:
        file.unlink()
        file.symlink_to("../.git/annex/objects/nothing")
        done.append("a link to nothing")
    else:
        file.with_name("x" + file.name).write_bytes(file.read_bytes())
        done.append("a copy")
