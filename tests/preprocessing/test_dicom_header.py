"""An attribute is a value, absent, or refused with the name of the file and the attribute."""

import struct
import types

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from preprocessing import dicom, dicom_header
from preprocessing.rules import IntegrityError
from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import save, slices
from tests.preprocessing.dicom_mutations import Element, File

POSITION, SPACING, ROWS, PADDING = 0x00200032, 0x00280030, 0x00280010, 0x00280120
FRAMES, GROUPS = 0x00280008, 0x52009230


def header(tmp_path, *elements, **changes):
    """Reads a file of these attributes, written byte by byte."""
    image_class = Element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0")
    meta = [
        Element(
            0x00020010,
            b"UI",
            b"1.2.840.10008.1.2\0" if changes.get("implicit") else b"1.2.840.10008.1.2.1\0",
        )
    ]
    path = tmp_path / "slice.dcm"
    path.write_bytes(File([image_class, *elements], meta, **changes).encoded())
    return dicom_header.read(path)


def refused(ask, *expected, rule="D12"):
    with pytest.raises(IntegrityError) as caught:
        ask()
    text = str(caught.value)
    assert caught.value.rule == rule and "slice.dcm" in caught.value.file and "\n" not in text
    for part in expected:
        assert part in text, text


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
@pytest.mark.parametrize("bare", [False, True], ids=["file", "without preamble"])
def test_values_are_those_that_were_written(tmp_path, implicit, bare):
    found = header(
        tmp_path,
        Element(POSITION, b"DS", rb"-1.5\+2e1\ .25 "),
        Element(FRAMES, b"IS", b"12"),
        Element(ROWS, b"US", struct.pack("<H", 512)),
        Element(PADDING, b"US", struct.pack("<H", 63536)),
        implicit=implicit,
        bare=bare,
    )
    assert found.numbers("ImagePositionPatient", 3) == (-1.5, 20.0, 0.25)
    assert found.count("NumberOfFrames") == 12 and found.required("Rows") == 512
    # 63536 and -2000 are the same bits
    assert (
        found.short("PixelPaddingValue", any_sign=True) == 63536
        and found.short("PixelPaddingValue", signed=True, any_sign=True) == -2000
    )
    assert (
        found.numbers("PixelSpacing", 2) is None
        and found.text("Modality") == ""
        and found.items("PerFrameFunctionalGroupsSequence") == []
    )


@pytest.mark.parametrize(
    "value",
    [
        b"1,0",
        b"1,5\\1,5",
        b"1",
        b"1\\2\\3",
        b"nan\\1",
        b"inf\\1",
        b"1e400\\1",
        b"1e30\\1",
        b"1_0\\1",
        b"\\1",
        b"1.0\\",
        b"\xff\\1",
        b"0x1\\1",
        b"1\0 2\\1",
    ],
)
def test_a_malformed_number_and_one_number_too_many_are_refused(tmp_path, value):
    refused(
        lambda: header(tmp_path, Element(SPACING, b"DS", value)).numbers("PixelSpacing", 2),
        "PixelSpacing is ",
    )


@pytest.mark.parametrize("value", [b"", b"  ", b"\0\0"])
def test_an_empty_value_is_absent(tmp_path, value):
    found = header(tmp_path, Element(SPACING, b"DS", value), Element(ROWS, b"US", b""))
    assert found.numbers("PixelSpacing", 2) is None and found.short("Rows") is None
    refused(lambda: found.required("Rows"), "has no Rows")


def test_another_text_representation_is_read_and_a_binary_one_is_refused(tmp_path):
    assert header(tmp_path, Element(SPACING, b"UT", b"0.5\\0.75")).numbers("PixelSpacing", 2) == (
        0.5,
        0.75,
    )
    doubles = struct.pack("<2d", 0.5, 0.75)
    refused(
        lambda: header(tmp_path, Element(SPACING, b"FD", doubles)).numbers("PixelSpacing", 2),
        "PixelSpacing is written as FD",
    )
    refused(
        lambda: header(tmp_path, Element(ROWS, b"IS", b"12")).short("Rows"), "Rows is written as IS"
    )
    refused(
        lambda: header(tmp_path, Element(ROWS, b"US", b"\1\0\2\0")).short("Rows"),
        "Rows is 0x01000200; expected one 16-bit number",
    )
    refused(
        lambda: header(tmp_path, Element(FRAMES, b"IS", b"1.5 ")).count("NumberOfFrames"),
        "expected a whole number",
    )


def test_an_attribute_that_is_not_a_sequence_is_refused(tmp_path):
    refused(
        lambda: header(tmp_path, Element(GROUPS, b"LO", b"text")).items(
            "PerFrameFunctionalGroupsSequence"
        ),
        "PerFrameFunctionalGroups",
    )


def test_a_value_cut_short_by_the_end_of_the_file_is_refused(tmp_path):
    found = header(
        tmp_path,
        Element(POSITION, b"DS", b"-93.25\\-80.5\\12.125 "),
        damage=lambda content: content[:-6],
    )
    refused(
        lambda: found.numbers("ImagePositionPatient", 3),
        "cut short inside its header, in ImagePositionPatient",
        rule="D09",
    )


def test_an_error_names_the_frame(tmp_path):
    item = header(tmp_path, Element(SPACING, b"DS", b"1")).within("frame 3: ")
    refused(lambda: item.numbers("PixelSpacing", 2), "frame 3: PixelSpacing is '1'")


@pytest.mark.parametrize(
    ("element", "said"),
    [
        (Element(0x00091010, b"XX", b"text"), "written as 'XX'"),
        (
            Element(0x00091010, b"SQ", b"\xfe\xff\x00\xe0\x90\x01\x00\x0012"),
            "items do not end where it ends",
        ),
        (
            Element(0x00091010, b"SQ", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"),
            "items do not end where it ends",
        ),
        (Element(0x00080016, b"UI", b"1.2.3\0"), "occurs twice"),
        (Element(0x7FE00010, b"LO", b"text"), "pixel data are written as 'LO'"),
    ],
)
def test_a_structure_on_which_readers_disagree_is_refused(tmp_path, element, said):
    refused(lambda: header(tmp_path, element), said, rule="D09")


def test_a_transfer_syntax_that_is_absent_or_does_not_fit_is_refused(tmp_path):
    rows = Element(ROWS, b"US", b"\2\0")
    assert header(tmp_path, rows, bare=True).transfer_syntax == "1.2.840.10008.1.2.1"
    assert header(tmp_path, rows, bare=True, implicit=True).transfer_syntax == "1.2.840.10008.1.2"
    for named, said in (
        (b"", "has no TransferSyntaxUID"),
        (b"1.2.840.10008.1.2\0", "attributes are written as explicit"),
    ):
        path = tmp_path / "slice.dcm"
        image_class = Element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0")
        path.write_bytes(File([image_class, rows], [Element(0x00020010, b"UI", named)]).encoded())
        refused(lambda path=path: dicom_header.read(path).transfer_syntax, said)


def test_the_beginning_of_a_file_tells_whether_it_is_dicom():
    begin = Element(0x00080005, b"CS", b"ISO_IR 100").encoded
    assert (
        dicom_header.is_dicom(bytes(128) + b"DICM")
        and dicom_header.is_dicom(begin(False))
        and dicom_header.is_dicom(begin(True))
    )
    for other in (
        b"",
        b"DICM",
        bytes(200),
        b"terms and conditions of use",
        b"\x89PNG\r\n\x1a\n",
        b"PK\x03\x04",
        struct.pack("<i", 348) + bytes(340),
    ):
        assert not dicom_header.is_dicom(other)


def test_a_decoder_that_panics_is_one_file_s_failure(tmp_path, monkeypatch):
    class Panic(BaseException):  # as a decoder written in Rust raises it
        pass

    class Dataset:
        file_meta = types.SimpleNamespace()

        @property
        def pixel_array(self):
            raise Panic("index out of bounds")

    monkeypatch.setattr(dicom_header.pydicom, "dcmread", lambda path, force: Dataset())
    refused(
        lambda: dicom_header.decode(tmp_path / "slice.dcm", "1.2.840.10008.1.2.5"),
        "index out of bounds",
        "1.2.840.10008.1.2.5",
        rule="D09",
    )


def test_no_stack_trace_of_a_decoder_is_logged(tmp_path, caplog):
    save(
        tmp_path,
        slices(
            Volume(np.arange(12288, dtype=np.int16).reshape(64, 64, 3), np.diag([1.0, 1, 2, 1]))
        ),
        syntax=JPEG2000Lossless,
    )
    last = sorted(tmp_path.iterdir())[-1]
    content = last.read_bytes()
    last.write_bytes(content.replace(b"\xff\x4f\xff\x51", bytes(4)))  # the codestream's first marks
    with pytest.raises(IntegrityError, match=f"{last.name}: its pixels .* cannot be decoded .*D09"):
        dicom.read_series(tmp_path)
    assert caplog.records == []


TRAILING = b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0abcd"
SIGNATURES = b"\xfa\xff\xfa\xffSQ\0\0\xff\xff\xff\xff\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("tail", "whole"),
    [
        (b"", True),
        (bytes(600), True),
        (TRAILING, True),
        (TRAILING + bytes(3), True),
        (SIGNATURES, True),
        (b"garbage", False),
        (b"\r\n--boundary--\r\n", False),
        (b"\xfe\xff\xdd\xe0" + bytes(4), False),
        (TRAILING[:-1], False),
        (TRAILING + b"more of it", False),
    ],
)
def test_only_attributes_and_zeros_may_follow_the_pixels(tmp_path, tail, whole, compressed):
    made = slices(Volume(np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.diag([1.0, 1, 2, 1])))
    save(tmp_path, made, syntax=RLELossless if compressed else None)
    last = sorted(tmp_path.iterdir())[-1]
    size = last.stat().st_size
    last.write_bytes(last.read_bytes() + tail)
    if whole:
        assert dicom.read_series(tmp_path).shape == (5, 4, 3)
    else:
        with pytest.raises(
            IntegrityError,
            match=f"{last.name}: its pixel data end at byte {size}.*D09.*head -c {size}",
        ):
            dicom.read_series(tmp_path)
