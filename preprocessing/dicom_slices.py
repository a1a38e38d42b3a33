"""The slices of a DICOM file: where each one lies and how its pixels are stored."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from preprocessing import axes, dicom_acquisitions, dicom_header, rules
from preprocessing.dicom_header import Header, PixelData
from preprocessing.rules import IntegrityError, broken

# Largest difference between direction cosines of two slices: DICOM prints six digits, some
# exporters fewer.
DIRECTION_TOLERANCE = 1e-3
_LARGEST_SLICE = 2**26  # pixels; a header with more would make its decoder allocate gigabytes
_INTEGER_PIXELS = 0x7FE00010


@dataclasses.dataclass(frozen=True)
class StoredPixels:
    """How the pixels of a file are stored in it.

    Attributes:
      size: rows, columns.
      frames: number of frames; None in a file of one slice.
      bits: allocated, stored.
      padding: first and last pixel value that means "not measured".
    """

    file: pathlib.Path
    where: PixelData
    size: tuple[int, int]
    frames: int | None
    bits: tuple[int, int]
    signed: bool
    transfer_syntax: str
    padding: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice: where it lies and how its pixels become HU.

    Attributes:
      frame: index in a multi-frame file; None in a file of one slice.
      position: position of the first pixel, in mm, in DICOM's LPS coordinates.
      directions: cosines along a row, then along a column.
      spacing: mm between rows, between columns.
      rescale: slope and intercept.
      instance: InstanceNumber of its file.
      of_acquisition: number of images that its acquisition produced.
      acquisition: values that identify its acquisition.
    """

    stored: StoredPixels
    frame: int | None
    position: tuple[float, float, float]
    directions: tuple[float, ...]
    spacing: tuple[float, float]
    rescale: tuple[float, float]
    instance: int | None
    of_acquisition: int | None
    acquisition: dicom_acquisitions.Marks

    @property
    def file(self) -> pathlib.Path:
        return self.stored.file

    @property
    def size(self) -> tuple[int, int]:
        return self.stored.size

    @property
    def name(self) -> str:
        return (
            self.file.name if self.frame is None else f"frame {self.frame + 1} of {self.file.name}"
        )


def slices_of(header: Header) -> Iterator[Slice]:
    """Yields the slices of a file.

    Raises:
      IntegrityError: for the first attribute that is missing or cannot be used.
    """
    stored = _stored_pixels(header)
    if stored.frames is None:
        yield _slice(stored, None, header, [header], [header])
        return
    shared = header.items("SharedFunctionalGroupsSequence")
    for number, frame in enumerate(header.items("PerFrameFunctionalGroupsSequence")):
        groups = [group.within(f"frame {number + 1}: ") for group in (frame, *shared)]
        yield _slice(stored, number, header, groups[:1], groups)


def _stored_pixels(header: Header) -> StoredPixels:
    """Returns how a file's pixels are stored, checked as far as the header allows."""
    path = header.path
    samples = header.short("SamplesPerPixel")
    if samples not in (None, 1):
        raise broken(rules.NOT_GREY, path, f"has {samples} channels per pixel")
    colour = header.text("PhotometricInterpretation").upper()
    if not colour:
        raise broken(rules.ATTRIBUTE, path, "has no PhotometricInterpretation")
    if colour == "MONOCHROME1":
        # By the standard this concerns only the display, and HU follow from the rescale; but
        # SimpleITK and tools built on it invert the values. A scan that one program reads as bone
        # and another as air cannot be labelled reliably.
        problem = "has pixels of MONOCHROME1, to be shown from white to black"
        fix = "export the slices as MONOCHROME2: tools differ in whether they invert such pixels"
        raise broken(rules.NOT_GREY, path, problem, fix)
    if colour != "MONOCHROME2":
        raise broken(rules.NOT_GREY, path, f"has pixels of {colour}")
    size = (header.required("Rows"), header.required("Columns"))
    for name, value in zip(("Rows", "Columns"), size, strict=True):
        if value == 0:
            header.refuse(name, "expected at least 1")
    if size[0] * size[1] > _LARGEST_SLICE:
        header.refuse(
            "Rows", f"with {size[1]} Columns a slice would have more than {_LARGEST_SLICE} pixels"
        )
    allocated, used = header.required("BitsAllocated"), header.required("BitsStored")
    if allocated not in (8, 16, 32):
        header.refuse("BitsAllocated", "expected 8, 16 or 32")
    if not 1 <= used <= allocated:
        header.refuse("BitsStored", f"expected 1 to {allocated}, the bits allocated")
    highest = header.short("HighBit")
    if highest not in (None, used - 1):
        header.refuse("HighBit", f"expected {used - 1}, one below the bits stored")
    signed = header.required("PixelRepresentation")
    if signed not in (0, 1):
        header.refuse("PixelRepresentation", "expected 0 or 1")
    where = header.pixel_data
    if where.tag != _INTEGER_PIXELS:
        problem = "holds floating-point pixels: a map computed from a CT, not the CT"
        raise broken(rules.UNDECODABLE, path, problem)
    if header.has("ModalityLUTSequence"):
        problem = "turns pixels into HU by a ModalityLUTSequence, not by slope and intercept"
        raise broken(rules.NO_RESCALE, path, problem)
    frames = _frames(header)
    padding = _padding(header, signed == 1)
    syntax = header.transfer_syntax
    stored = StoredPixels(
        path, where, size, frames, (allocated, used), signed == 1, syntax, padding
    )
    if stored.transfer_syntax in dicom_header.NATIVE:
        _require_whole(stored)
    elif where.length is not None and stored.transfer_syntax not in dicom_header.OTHER_NATIVE:
        problem = (
            f"names transfer syntax {stored.transfer_syntax}, which this reader knows only with "
            "encapsulated pixels, but its pixels are not encapsulated"
        )
        raise broken(rules.UNDECODABLE, path, problem)
    dicom_header.require_end(header)
    return stored


def _frames(header: Header) -> int | None:
    """Returns the number of frames of a multi-frame file, None for a file of one slice."""
    frames = header.count("NumberOfFrames")
    groups = len(header.items("PerFrameFunctionalGroupsSequence"))
    if frames is not None and frames < 1:
        header.refuse("NumberOfFrames", "expected at least 1")
    if not groups and (frames or 1) == 1 and not header.items("SharedFunctionalGroupsSequence"):
        return None
    if groups != (frames or 1):
        problem = (
            f"holds {frames or 1} frames and the functional groups of {groups}, "
            "so that not every frame has a position"
        )
        raise broken(rules.NO_GEOMETRY, header.path, problem)
    return groups


def _require_whole(stored: StoredPixels) -> None:
    """Raises IntegrityError if the length of native pixels is not as declared."""
    there = stored.where.length
    if there is None:
        problem = f"has encapsulated pixels, but names transfer syntax {stored.transfer_syntax}"
        raise broken(rules.UNDECODABLE, stored.file, problem)
    row = stored.size[1] * stored.bits[0] // 8
    expected = row * stored.size[0] * (stored.frames or 1)
    left = max(0, stored.file.stat().st_size - stored.where.start)
    if there > left:
        problem = f"is cut short: it holds {left} of {there} bytes of pixel data"
        raise broken(rules.UNDECODABLE, stored.file, problem)
    # Some writers add a few bytes at the end; an extra row would mean another picture.
    if not expected <= there < expected + max(row, 2):
        shape = f"{stored.size[0]} x {stored.size[1]} pixels of {stored.bits[0]} bits"
        shape = shape if stored.frames is None else f"{stored.frames} frames of {shape}"
        problem = (
            f"has {there} bytes of pixel data where {shape} (Rows, Columns, BitsAllocated) "
            f"take {expected}"
        )
        raise broken(rules.UNDECODABLE, stored.file, problem)


def _padding(header: Header, signed: bool) -> tuple[int, int] | None:
    # The value has the pixels' signedness, whatever the representation of the attribute.
    value = header.short("PixelPaddingValue", signed=signed, any_sign=True)
    limit = header.short("PixelPaddingRangeLimit", signed=signed, any_sign=True)
    if value is None:
        return None
    return (value, value) if limit is None else (min(value, limit), max(value, limit))


def _slice(
    stored: StoredPixels,
    frame: int | None,
    header: Header,
    own: Sequence[Header],
    groups: Sequence[Header],
) -> Slice:
    """Returns a slice.

    Args:
      header: header of the file.
      own: attributes of this frame alone.
      groups: where to look for the slice's attributes: the header itself, or the functional groups
          of the frame and the shared ones.
    """
    where = groups[0].where

    def holders(sequence: str) -> Iterator[Header]:
        for group in groups:
            yield from [group] if frame is None else group.items(sequence)[:1]

    def values(sequence: str, name: str, count: int) -> tuple[float, ...] | None:
        found = (holder.numbers(name, count) for holder in holders(sequence))
        return next((numbers for numbers in found if numbers is not None), None)

    position = values("PlanePositionSequence", "ImagePositionPatient", 3)
    directions = values("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = values("PixelMeasuresSequence", "PixelSpacing", 2)
    slope = values("PixelValueTransformationSequence", "RescaleSlope", 1)
    intercept = values("PixelValueTransformationSequence", "RescaleIntercept", 1)
    if position is None or directions is None or spacing is None:
        needed = {
            "ImagePositionPatient": position,
            "ImageOrientationPatient": directions,
            "PixelSpacing": spacing,
        }
        absent = ", ".join(name for name, value in needed.items() if value is None)
        raise broken(rules.NO_GEOMETRY, stored.file, f"{where}has no {absent}")
    pair = np.reshape(directions, (2, 3))
    orthonormal = np.abs(pair @ pair.T - np.eye(2)).max() < 10 * DIRECTION_TOLERANCE
    if not orthonormal or min(spacing) <= 0:
        problem = (
            f"{where}ImageOrientationPatient {directions} or PixelSpacing {spacing} is not valid"
        )
        raise broken(rules.NO_GEOMETRY, stored.file, problem)
    if slope is None or intercept is None:
        problem = f"{where}has no RescaleSlope and RescaleIntercept"
        raise broken(rules.NO_RESCALE, stored.file, problem)
    if slope[0] == 0:
        raise broken(rules.NO_RESCALE, stored.file, f"{where}RescaleSlope is 0")
    content = own if frame is None else own[0].items("FrameContentSequence")[:1]
    return Slice(
        stored,
        frame,
        axes.three(position),
        directions,
        (spacing[0], spacing[1]),
        (slope[0], intercept[0]),
        _count_or_none(header, "InstanceNumber"),
        _count_or_none(header, "ImagesInAcquisition") if frame is None else None,
        dicom_acquisitions.Marks.of(header, content[0] if content else None, frame),
    )


def _count_or_none(header: Header, name: str) -> int | None:
    """Returns a whole number on which only warnings depend, None if it is missing or malformed."""
    with contextlib.suppress(IntegrityError):
        return header.count(name)
    return None
