"""The attributes of a DICOM file as numbers and texts. No other module reads pydicom's values.

A value is taken from the bytes of its attribute. It is of the requested kind (a text, a number, a
given count of numbers) or absent; otherwise the file is refused, naming the attribute. pydicom
itself would guess, warn, or raise any error of its converters.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from preprocessing import regular_files, rules
from preprocessing.rules import IntegrityError, broken

try:
    import pydicom
    from pydicom import filereader

    # These loggers print stack traces; our own errors say what matters.
    for _name in ("pydicom", "libjpeg", "openjpeg"):
        logging.getLogger(_name).setLevel(logging.CRITICAL)
except ImportError:
    pydicom = None  # type: ignore[assignment]  # an extra that sites with NIfTI files do not need

_TEXT_CODES = "AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT"
_OTHER_CODES = "AT FD FL OB OD OF OL OV OW SL SQ SS SV UL UN US UV"
_TEXT = frozenset(_TEXT_CODES.split())
_REPRESENTATIONS = _TEXT | frozenset(_OTHER_CODES.split())
_FIRST_REPRESENTATIONS = frozenset(name.encode() for name in _REPRESENTATIONS)
_PIXEL_REPRESENTATIONS = (None, "OW", "OB", "UN", "OF", "OD")  # None: implicit
# Representations whose lengths take four bytes.
_WIDE_CODES = "OB OD OF OL OV OW SQ SV UC UN UR UT UV"
_WIDE = frozenset(name.encode() for name in _WIDE_CODES.split())
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
# In mm, in HU or as a factor; beyond it, float32 voxels and sums of squares become meaningless.
_LARGEST = 1e7
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double, integers
_ITEM, _ITEM_END, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_LONGEST_TAIL = 2**20
_START = 140  # bytes that show whether a file is DICOM
_PREAMBLE = 128
_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Transfer syntaxes whose pixels are stored uncompressed in little-endian order; and the others
# whose pixels are not encapsulated.
NATIVE = (_IMPLICIT, _EXPLICIT)
OTHER_NATIVE = (_BIG_ENDIAN, _DEFLATED)


@dataclasses.dataclass(frozen=True)
class PixelData:
    """The location of the pixels in a file.

    Attributes:
      tag: tag of the attribute that holds them.
      start: its first byte in the file.
      length: length in bytes; None if they are encapsulated.
    """

    tag: int
    start: int
    length: int | None


class Header:
    """The attributes of a file, or of an item of one of its sequences.

    Every method raises IntegrityError naming file and attribute: rule D12 if the value has another
    kind or count than the method returns, rule D09 if the end of the file cuts the value short.

    Attributes:
      path: the file.
      where: the item, e.g. "frame 3: ", prefixed to error messages; empty for the file itself.
      pixels: location of its pixel data; None for a file without them and for an item.
    """

    def __init__(
        self, path: pathlib.Path, dataset: Any, where: str = "", pixels: PixelData | None = None
    ):
        self.path, self.where, self.pixels, self._dataset = path, where, pixels, dataset

    @property
    def pixel_data(self) -> PixelData:
        """Location of the pixel data. Raises IntegrityError if there are none."""
        if self.pixels is None:
            raise broken(rules.UNDECODABLE, self.path, f"{self.where}has no pixel data")
        return self.pixels

    def has(self, name: str) -> bool:
        return self._bytes(name) is not None

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns the stripped values of a text attribute, () if it is absent or empty."""
        raw = self._bytes(name, _TEXT)
        if raw is None:
            return ()
        return tuple(part.strip(" \0") for part in raw.decode("latin-1").split("\\"))

    def text(self, name: str) -> str:
        """Returns the only value of a text attribute, "" if it is absent or empty."""
        values = self.texts(name)
        if len(values) > 1:
            self.refuse(name, "expected one value")
        return values[0] if values else ""

    def label(self, name: str) -> str:
        """Returns a text to display, decoded as well as possible; never raises."""
        try:
            return " ".join(str(self._dataset[_tag(name)].value or "").split())
        except Exception:  # the text is only displayed
            return ""

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        """Returns an attribute of `count` decimal numbers, None if it is absent or empty."""
        raw = self._bytes(name, _TEXT)
        if raw is None:
            return None
        parts = [part.strip(b" \0") for part in raw.split(b"\\")]
        if len(parts) != count or not all(map(_NUMBER.match, parts)):
            self.refuse(name, "expected a number" if count == 1 else f"expected {count} numbers")
        values = tuple(map(float, parts))
        if not all(abs(value) <= _LARGEST for value in values):
            self.refuse(name, f"expected numbers up to {_LARGEST:g}")
        return values

    def number(self, name: str) -> float | None:
        """Returns an attribute of one decimal number, None if it is absent or empty."""
        values = self.numbers(name, 1)
        return None if values is None else values[0]

    def count(self, name: str) -> int | None:
        """Returns a whole number that is written as text, None if it is absent or empty."""
        value = self.number(name)
        if value is not None and not value.is_integer():
            self.refuse(name, "expected a whole number")
        return None if value is None else int(value)

    def short(self, name: str, *, signed: bool = False, any_sign: bool = False) -> int | None:
        """Returns an attribute of one 16-bit number, None if it is absent or empty.

        Args:
          signed: whether its bits are those of a signed number.
          any_sign: whether the file may declare it as signed or as unsigned.
        """
        raw = self._bytes(name, ("US", "SS") if any_sign else ("US",))
        if raw is None:
            return None
        if len(raw) != 2:
            self.refuse(name, "expected one 16-bit number")
        little = self._dataset.get_item(_tag(name)).is_little_endian
        return struct.unpack(("<" if little else ">") + ("h" if signed else "H"), raw)[0]

    def required(self, name: str) -> int:
        """Returns an unsigned 16-bit number that every image has."""
        value = self.short(name)
        if value is None:
            raise broken(rules.ATTRIBUTE, self.path, f"{self.where}has no {name}")
        return value

    def items(self, name: str) -> list[Header]:
        """Returns the items of a sequence with the same `where`, [] if it is absent or empty."""
        tag = _tag(name)
        if tag not in self._dataset:
            return []
        try:
            value = self._dataset[tag].value
        except Exception as error:  # pydicom lets every error of its parser through
            problem = f"{self.where}{name} cannot be read ({_one_line(error)})"
            raise broken(rules.ATTRIBUTE, self.path, problem) from error
        if value is None or value == b"" or value == "":
            return []
        if not isinstance(value, pydicom.Sequence):
            self.refuse(name, "expected a sequence")
        return [Header(self.path, item, self.where) for item in value]

    def within(self, where: str) -> Header:
        """Returns the same attributes under another `where`."""
        return Header(self.path, self._dataset, where, self.pixels)

    def refuse(self, name: str, expected: str) -> NoReturn:
        problem = f"{self.where}{name} is {self._shown(name)}; {expected}"
        raise broken(rules.ATTRIBUTE, self.path, problem)

    @property
    def transfer_syntax(self) -> str:
        """How the file is encoded; derived from its attributes if it has no meta group.

        Raises:
          IntegrityError: if the meta group does not name the transfer syntax, or names an implicit
              one for explicit attributes or vice versa, where readers disagree or skip the file.
        """
        implicit, little = self._dataset.original_encoding
        rows = self._dataset.get_item(_tag("Rows"))  # which every image has
        implicit = getattr(rows, "is_implicit_VR", implicit) and getattr(rows, "VR", None) is None
        if not self._dataset.file_meta:
            return _IMPLICIT if implicit else _EXPLICIT if little else _BIG_ENDIAN
        meta = Header(self.path, self._dataset.file_meta, "meta group: ")
        named = meta.text("TransferSyntaxUID")
        if not named:
            raise broken(rules.ATTRIBUTE, self.path, "meta group: has no TransferSyntaxUID")
        if implicit != (named == _IMPLICIT):
            kind = "implicit" if implicit else "explicit"
            meta.refuse("TransferSyntaxUID", f"but the attributes are written as {kind} ones")
        return named

    @property
    def storage_class(self) -> str:
        """SOP class of the object, "" if neither the object nor its meta group names it."""
        own = self.text("SOPClassUID")
        if own or not self._dataset.file_meta:
            return own
        meta = Header(self.path, self._dataset.file_meta, "meta group: ")
        return meta.text("MediaStorageSOPClassUID")

    def _bytes(
        self, name: str, representations: Sequence[str] | frozenset[str] | None = None
    ) -> bytes | None:
        """Returns the bytes of an attribute, None if it is absent or empty."""
        try:
            element = self._dataset.get_item(_tag(name))
        except Exception as error:
            problem = f"{self.where}{name} cannot be read ({_one_line(error)})"
            raise broken(rules.ATTRIBUTE, self.path, problem) from error
        if element is None:
            return None
        raw = element.value
        if not raw:
            return None
        if (
            representations is not None
            and element.VR not in (None, "UN")
            and element.VR not in representations
        ):
            kind = "text" if representations is _TEXT else " or ".join(representations)
            problem = f"{self.where}{name} is written as {element.VR}; expected {kind}"
            raise broken(rules.ATTRIBUTE, self.path, problem)
        if not isinstance(raw, bytes):
            return str(raw).encode("latin-1", "replace")
        # an element that pydicom has converted has no length
        if getattr(element, "length", _UNDEFINED) not in (len(raw), _UNDEFINED):
            raise broken(rules.UNDECODABLE, self.path, f"is cut short inside its header, in {name}")
        return raw if raw.strip(b" \0") or representations is not _TEXT else None

    def _shown(self, name: str) -> str:
        raw = self._bytes(name) or b""
        text = (
            repr(raw.decode("latin-1").strip(" \0"))
            if all(32 <= byte < 127 for byte in raw.strip(b"\0"))
            else f"0x{raw[:16].hex()}"
        )
        return text if len(text) <= 60 else text[:57] + "..."


def is_dicom(start: bytes) -> bool:
    """Returns whether a file that starts like this is DICOM.

    Many archives write files without the preamble; they are recognised too.
    """
    if start[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    if len(start) < 8:
        return False
    group, element, representation = struct.unpack("<HH2s", start[:6])
    if group not in (0x0002, 0x0008) or element > 0x0100:
        return False
    return representation in _FIRST_REPRESENTATIONS or struct.unpack("<I", start[4:8])[0] <= 256


def start_of(path: pathlib.Path) -> bytes:
    """Returns the bytes that `is_dicom` needs. Raises OSError."""
    regular_files.require_readable(path)
    with open(path, "rb") as stream:
        return stream.read(_START)


def read(path: pathlib.Path) -> Header:
    """Reads a DICOM file up to its pixels.

    Raises:
      IntegrityError: naming the file, if it cannot be parsed.
      OSError: if it cannot be opened.
    """
    found: list[PixelData] = []
    seen: dict[int, int] = {}

    def at_pixels(tag: int, representation: str | None, length: int) -> bool:
        # pydicom may ask twice about the first element, from within its eight bytes
        if stream.tell() - seen.setdefault(tag, stream.tell()) >= 8:
            raise _damaged(path, f"{pydicom.tag.Tag(tag)} occurs twice")
        if tag in _PIXEL_DATA:
            if representation not in _PIXEL_REPRESENTATIONS:
                raise _damaged(path, f"its pixel data are written as {representation!r}")
            found.append(
                PixelData(int(tag), stream.tell(), None if length == _UNDEFINED else length)
            )
        return bool(found)

    with open(path, "rb") as stream:
        try:
            dataset = filereader.read_partial(stream, at_pixels, force=True)
        except (OSError, IntegrityError):
            raise
        except Exception as error:  # pydicom lets every error of its parser through
            problem = f"its header cannot be read ({_one_line(error)})"
            raise broken(rules.UNDECODABLE, path, problem) from error
    # Readers disagree on such files; some skip the slice.
    element: Any  # raw or converted: pydicom's types do not say which attributes each has
    for element in dataset.values():
        if element.VR not in _REPRESENTATIONS and not (
            element.VR is None and element.is_implicit_VR
        ):
            problem = (
                f"{element.tag} is written as {element.VR!r}, which is not a value representation"
            )
            raise _damaged(path, problem)
        if (
            element.VR == "SQ"
            and isinstance(element.value, bytes)
            and element.is_little_endian
            and not _are_items(element.value)
        ):
            problem = f"{element.tag} is a sequence whose items do not end where it ends"
            raise _damaged(path, problem)
    return Header(path, dataset, pixels=found[0] if found else None)


def _damaged(path: pathlib.Path, what: str) -> IntegrityError:
    return broken(rules.UNDECODABLE, path, f"its header is damaged: {what}")


def _are_items(content: bytes) -> bool:
    """Returns whether the bytes of a sequence are consecutive items.

    Readers disagree on other sequences.
    """
    at = 0
    while at < len(content):
        if content[at : at + 4] == _END:
            return True
        if content[at : at + 4] != _ITEM or len(content) < at + 8:
            return False
        (length,) = struct.unpack("<I", content[at + 4 : at + 8])
        if length == _UNDEFINED:  # it ends at a delimiter, as its own items may
            return _ITEM_END in content[at + 8 :]
        at += 8 + length
    return at == len(content)


def require_end(header: Header) -> None:
    """Raises IntegrityError if anything but attributes or zeros follows the pixels of a file.

    Some readers skip such a slice. Big-endian and deflated files are not checked.
    """
    implicit = header.transfer_syntax == _IMPLICIT
    if header.transfer_syntax in OTHER_NATIVE:
        return
    pixels = header.pixel_data
    with open(header.path, "rb") as stream:
        stream.seek(pixels.start)
        if pixels.length is not None:
            stream.seek(pixels.length, 1)
        else:
            while (head := stream.read(8))[:4] == _ITEM and len(head) == 8:
                stream.seek(struct.unpack("<I", head[4:])[0], 1)
            if head[:4] != _END:
                raise _damaged(header.path, "its encapsulated pixel data have no end")
        begin, tail = stream.tell(), stream.read(_LONGEST_TAIL)
    if not _are_attributes(tail, pixels.tag, implicit):
        problem = f"its pixel data end at byte {begin}, and what follows is not an attribute"
        fix = f"fetch the file again, or keep its first {begin} bytes (head -c {begin})"
        raise broken(rules.UNDECODABLE, header.path, problem, fix)


def _are_attributes(content: bytes, last: int, implicit: bool) -> bool:
    """Returns whether bytes are attributes in ascending order of tags, then perhaps zeros."""
    while content.strip(b"\0"):
        if len(content) < 12:
            return False
        group, number, representation, short, long = struct.unpack("<HH2sHI", content[:12])
        if group << 16 | number <= last or not (
            implicit or representation in _FIRST_REPRESENTATIONS
        ):
            return False
        wide = not implicit and representation in _WIDE
        length = struct.unpack("<I", content[4:8])[0] if implicit else long if wide else short
        if length == _UNDEFINED:  # a sequence, such as digital signatures
            return True
        last, size = group << 16 | number, (12 if wide else 8) + length
        if size > len(content):
            return len(content) == _LONGEST_TAIL
        content = content[size:]
    return True


def decode(path: pathlib.Path, transfer_syntax: str) -> np.ndarray:
    """Returns the decoded pixels of a file: [rows, columns], or [frames, rows, columns].

    Raises:
      IntegrityError: naming the file, if its pixels cannot be decoded.
    """
    try:
        dataset: Any = pydicom.dcmread(path, force=True)
        dataset.file_meta.TransferSyntaxUID = transfer_syntax
        return dataset.pixel_array
    except (KeyboardInterrupt, SystemExit):
        raise
    # Each decoder raises its own errors; a panic in a Rust decoder is not even an Exception.
    except BaseException as error:
        syntax = transfer_syntax or "none"
        problem = f"its pixels in transfer syntax {syntax} cannot be decoded ({_one_line(error)})"
        raise broken(rules.UNDECODABLE, path, problem) from error


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:200]


_tags: dict[str, int] = {}


def _tag(name: str) -> int:
    tag = _tags.get(name)
    if tag is None:
        tag = _tags[name] = pydicom.tag.Tag(name)
    return tag
