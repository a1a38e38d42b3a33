"""A CT series in DICOM files as one volume.

Slices are sorted by where they lie along their normal, never by file name or instance number, and
each is rescaled with its own slope and intercept. What cannot be one upright stack of equidistant
slices is refused. `dicom_header` reads attributes, `dicom_folder` finds the files of a series,
`dicom_acquisitions` tells passes of one series apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.ndimage

from preprocessing import dicom_acquisitions, dicom_archive, dicom_folder, dicom_header
from preprocessing.checks import rules
from preprocessing.checks.rules import IntegrityError, broken
from preprocessing.dicom_folder import Series, files_in
from preprocessing.dicom_header import Header, PixelData
from preprocessing.volume import Volume

__all__ = ["files_in", "is_series", "read_series", "require_reader", "slice_files"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_DIRECTION = (
    1e-3  # between direction cosines of two slices: DICOM prints six digits, some exporters fewer
)
_UNEVEN = 0.25  # of a slice distance, from where an even stack has the slice
_ROUNDING_MM = 0.06  # positions are printed with one decimal by some
_TILT = 0.002  # in-plane drift by length: 0.1 degrees
_LARGEST_SLICE = 2**26  # pixels; a header that says more would have its decoder reserve gigabytes
_INTEGER_PIXELS = 0x7FE00010
_AIR_HU = -1024
_PADDING_TISSUE_HU = (
    -900.0,
    3000.0,
)  # between air and what a scanner's 12 bits hold: padding here may also be patient


@dataclasses.dataclass(frozen=True)
class _Stored:
    """How the pixels of a file lie in it. `frames` is None in a file of one slice."""

    file: pathlib.Path
    where: PixelData
    size: tuple[int, int]  # rows, columns
    frames: int | None
    bits: tuple[int, int]  # allocated, stored
    signed: bool
    transfer_syntax: str
    padding: tuple[int, int] | None  # first and last pixel value that stands for no measurement


@dataclasses.dataclass(frozen=True)
class _Slice:
    """One slice: where it lies and how its pixels become HU. `frame` is its number in a multi-frame
    file.
    """

    stored: _Stored
    frame: int | None
    position: tuple[float, float, float]  # mm, DICOM's LPS
    directions: tuple[float, ...]  # along a row, along a column
    spacing: tuple[float, float]  # between rows, between columns
    rescale: tuple[float, float]
    instance: int | None  # of its file
    of_acquisition: int | None  # how many images its acquisition gave
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


def require_reader() -> None:
    """Raises ValueError, with the remedy, where the extra is not installed."""
    if dicom_header.pydicom is None:
        raise ValueError(
            "DICOM series need pydicom and its decoders, which are not installed: pip install -e '.[dicom]'"
        )


def is_series(path: str | os.PathLike) -> bool:
    """Returns whether a path is read as DICOM: a folder, a zip, or a file that begins as DICOM does
    or is named so.
    """
    path = pathlib.Path(path)
    if (
        path.is_dir()
        or dicom_archive.is_archive(path)
        or path.suffix.lower() in dicom_folder.SUFFIXES
    ):
        return True
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        return dicom_header.is_dicom(dicom_header.start_of(path))
    except OSError:
        return False


def read_series(path: str | os.PathLike, series: str | None = None) -> Volume:
    """Reads a CT series.

    Args:
      path: a folder that holds the series in it or in folders below it, a zip of such a folder, or
        one multi-frame file. Localizers, screenshots, other modalities and files that are not DICOM
        are left out.
      series: SeriesInstanceUID or SeriesNumber where there are several, and behind a # the
        acquisition where the series holds several ("1.2.840...#2", "#2"; "#all" takes them for
        one).
    Returns:
      HU [x, y, z]: x along a row, y along a column, z along the normal. int16 where every value is
      a whole number that fits, else float32. Fortran-ordered. Padding is air. `warnings` holds what
      is unusual.
    Raises:
      IntegrityError: naming the folder, or the file and the attribute, for the first rule of groups
          D and F that is broken.
      ValueError: without pydicom.
    """
    with _opened(path, series) as (slices, warnings):
        first, last = slices[0], slices[-1]
        steps = (np.array(last.position) - first.position) / (len(slices) - 1)
        # of length one: some scanners print cosines with so few digits that a voxel would grow by
        # them
        row, column = (
            direction / np.linalg.norm(direction)
            for direction in np.reshape(first.directions, (2, 3))
        )
        affine = np.eye(4)
        affine[:3, :3] = _LPS_TO_RAS @ np.stack(
            [row * first.spacing[1], column * first.spacing[0], steps], axis=1
        )
        affine[:3, 3] = _LPS_TO_RAS @ first.position
        voxels, replaced = _voxels(slices)
        return Volume(voxels, affine, warnings=(*warnings, *replaced))


@contextlib.contextmanager
def slice_files(path: str | os.PathLike, series: str | None = None) -> Iterator[list[pathlib.Path]]:
    """Yields the file of each slice in the order of z of `read_series`; a multi-frame file stands
    there once per frame.

    The files of a zip are there until the end of the block. Args, raises: as `read_series`.
    """
    with _opened(path, series) as (slices, _):
        yield [one.file for one in slices]


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike, wanted: str | None
) -> Iterator[tuple[list[_Slice], list[IntegrityError]]]:
    """Yields the sorted slices of the chosen series, and warnings."""
    require_reader()
    path = pathlib.Path(path)
    with contextlib.ExitStack() as stack:
        folder = path
        if dicom_archive.is_archive(path):
            folder = stack.enter_context(dicom_archive.unpacked(path))
        if folder.is_dir():
            files, missing = dicom_folder.listing(folder)
        elif folder.is_file():
            files, missing = [folder], []
        elif folder.is_symlink():
            files, missing = [], [folder]
        else:
            raise broken(rules.MISSING, path, "no such folder")
        name, _, acquisition = (wanted or "").partition("#")
        series = dicom_folder.choose(path, files, missing, name or None)
        slices = [one for header in series.slices for one in _slices(header)]
        _require_alike(slices)
        _require_whole_concatenations(series.slices, path)
        _require_left_out(series, slices[0])
        slices = dicom_acquisitions.choose(path, series.uid, slices, acquisition or None)
        yield _sorted(slices, path), _gaps(slices, path)


def _slices(header: Header) -> Iterator[_Slice]:
    stored = _stored(header)
    if stored.frames is None:
        yield _slice(stored, None, header, [header], [header])
        return
    shared = header.items("SharedFunctionalGroupsSequence")
    for number, frame in enumerate(header.items("PerFrameFunctionalGroupsSequence")):
        groups = [group.within(f"frame {number + 1}: ") for group in (frame, *shared)]
        yield _slice(stored, number, header, groups[:1], groups)


def _stored(header: Header) -> _Stored:
    """Returns how a file's pixels are stored, checked as far as its header tells."""
    path = header.path
    samples = header.short("SamplesPerPixel")
    if samples not in (None, 1):
        raise broken(rules.NOT_GREY, path, f"has {samples} channels per pixel")
    colour = header.text("PhotometricInterpretation").upper()
    if not colour:
        raise broken(rules.ATTRIBUTE, path, "has no PhotometricInterpretation")
    if colour == "MONOCHROME1":
        # By the standard it says how slices are shown, and HU are those of the rescale; SimpleITK
        # and what builds on it invert the values. Two programs that read one scan as bone and as
        # air are no basis for a label.
        fix = "export the slices as MONOCHROME2: tools differ in whether they invert the values of such pixels"
        raise broken(
            rules.NOT_GREY, path, "has pixels of MONOCHROME1, to be shown from white to black", fix
        )
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
    if header.pixels.tag != _INTEGER_PIXELS:
        raise broken(
            rules.UNDECODABLE, path, "holds floating-point pixels: a map made of a CT, not the CT"
        )
    if header.has("ModalityLUTSequence"):
        raise broken(
            rules.NO_RESCALE,
            path,
            "turns pixels into HU by a ModalityLUTSequence, not by slope and intercept",
        )
    frames = _frames(header)
    padding = _padding(header, signed == 1)
    stored = _Stored(
        path,
        header.pixels,
        size,
        frames,
        (allocated, used),
        signed == 1,
        header.transfer_syntax,
        padding,
    )
    if stored.transfer_syntax in dicom_header.NATIVE:
        _require_whole(stored)
    elif (
        stored.where.length is not None and stored.transfer_syntax not in dicom_header.OTHER_NATIVE
    ):
        problem = f"names transfer syntax {stored.transfer_syntax}, which this reader knows only with encapsulated pixels, and its own are not"
        raise broken(rules.UNDECODABLE, path, problem)
    dicom_header.require_end(header)
    return stored


def _frames(header: Header) -> int | None:
    """Returns how many frames a multi-frame file holds, None for a file of one slice."""
    frames, groups = (
        header.count("NumberOfFrames"),
        len(header.items("PerFrameFunctionalGroupsSequence")),
    )
    if frames is not None and frames < 1:
        header.refuse("NumberOfFrames", "expected at least 1")
    if not groups and (frames or 1) == 1 and not header.items("SharedFunctionalGroupsSequence"):
        return None
    if groups != (frames or 1):
        problem = f"holds {frames or 1} frames and the functional groups of {groups}, so that not every frame has a position"
        raise broken(rules.NO_GEOMETRY, header.path, problem)
    return groups


def _require_whole(stored: _Stored) -> None:
    """Raises where pixels that lie in the file as they are do not have the length that the header
    says.
    """
    if stored.where.length is None:
        raise broken(
            rules.UNDECODABLE,
            stored.file,
            f"has encapsulated pixels, but names transfer syntax {stored.transfer_syntax}",
        )
    row = stored.size[1] * stored.bits[0] // 8
    expected = row * stored.size[0] * (stored.frames or 1)
    there = stored.where.length
    left = max(0, stored.file.stat().st_size - stored.where.start)
    if there > left:
        raise broken(
            rules.UNDECODABLE,
            stored.file,
            f"is cut short: of {there} bytes of pixel data {left} are there",
        )
    # some writers add a few bytes at the end; a row too many is another picture
    if not expected <= there < expected + max(row, 2):
        shape = f"{stored.size[0]} x {stored.size[1]} pixels of {stored.bits[0]} bits"
        shape = shape if stored.frames is None else f"{stored.frames} frames of {shape}"
        problem = f"has {there} bytes of pixel data where {shape} (Rows, Columns, BitsAllocated) take {expected}"
        raise broken(rules.UNDECODABLE, stored.file, problem)


def _padding(header: Header, signed: bool) -> tuple[int, int] | None:
    # the sign is that of the pixels, whatever the attribute is written as
    value = header.short("PixelPaddingValue", signed=signed, any_sign=True)
    limit = header.short("PixelPaddingRangeLimit", signed=signed, any_sign=True)
    if value is None:
        return None
    return (value, value) if limit is None else (min(value, limit), max(value, limit))


def _slice(
    stored: _Stored,
    frame: int | None,
    header: Header,
    own: Sequence[Header],
    groups: Sequence[Header],
) -> _Slice:
    """Returns a slice.

    Args:
      header: of the file.
      own: what belongs to this frame alone.
      groups: where its attributes are: the header itself, or the frame's and the shared functional
          groups.
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
    absent = [
        name
        for name, value in (
            ("ImagePositionPatient", position),
            ("ImageOrientationPatient", directions),
            ("PixelSpacing", spacing),
        )
        if value is None
    ]
    if absent:
        raise broken(rules.NO_GEOMETRY, stored.file, f"{where}has no {', '.join(absent)}")
    directions_ok = (
        np.abs(np.reshape(directions, (2, 3)) @ np.reshape(directions, (2, 3)).T - np.eye(2)).max()
        < 10 * _DIRECTION
    )
    if not directions_ok or min(spacing) <= 0:
        problem = (
            f"{where}ImageOrientationPatient {directions} or PixelSpacing {spacing} places no pixel"
        )
        raise broken(rules.NO_GEOMETRY, stored.file, problem)
    if slope is None or intercept is None:
        raise broken(
            rules.NO_RESCALE, stored.file, f"{where}has no RescaleSlope and RescaleIntercept"
        )
    if slope[0] == 0:
        raise broken(rules.NO_RESCALE, stored.file, f"{where}RescaleSlope is 0")
    content = own if frame is None else own[0].items("FrameContentSequence")[:1]
    return _Slice(
        stored,
        frame,
        position,
        directions,
        spacing,
        (slope[0], intercept[0]),
        _maybe_count(header, "InstanceNumber"),
        _maybe_count(header, "ImagesInAcquisition") if frame is None else None,
        dicom_acquisitions.Marks.of(header, content[0] if content else None, frame),
    )


def _maybe_count(header: Header, name: str) -> int | None:
    """Returns a whole number that nothing but a warning depends on, None also where it is not one."""
    with contextlib.suppress(IntegrityError):
        return header.count(name)
    return None


def _require_alike(slices: Sequence[_Slice]) -> None:
    first = slices[0]
    for one in slices:
        differs = _difference(one, first)
        if differs:
            raise broken(rules.MIXED_SLICES, one.file, f"has {differs} of {first.file.name}")


def _difference(one: _Slice, first: _Slice) -> str | None:
    if one.size != first.size:
        return f"size {one.size} instead of {first.size}"
    if _apart(one.directions, first.directions) > _DIRECTION:
        return f"orientation {one.directions} instead of {first.directions}"
    if _apart(one.spacing, first.spacing) > _DIRECTION:
        return f"pixel spacing {one.spacing} instead of {first.spacing}"
    return None


def _require_left_out(series: Series, first: _Slice) -> None:
    """Raises for a file of the series that says it is something else and lies as its slices lie."""
    for kind, header in series.left_out:
        try:
            alike = not any(_difference(one, first) for one in _slices(header))
        except IntegrityError:
            continue  # without place or pixels: no slice of a CT
        if alike:
            problem = f"belongs to the series and lies as its slices do, but is marked as {kind}"
            raise broken(rules.MIXED_SLICES, header.path, problem)


def _sorted(slices: list[_Slice], path: pathlib.Path) -> list[_Slice]:
    """Returns the slices along their normal, checked to be one upright, even stack."""
    if len(slices) < 2:
        raise broken(rules.ONE_SLICE, path, "holds a single slice")
    first = slices[0]
    normal = dicom_acquisitions.normal_of(first.directions)
    slices = sorted(slices, key=lambda s: float(np.dot(s.position, normal)))
    positions = np.array([s.position for s in slices])
    heights = positions @ normal
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    for i, gap in enumerate(gaps):
        if gap < max(0.05 * usual, 1e-3):
            raise broken(
                rules.DUPLICATE_SLICE,
                slices[i + 1].file,
                f"lies where {slices[i].name} lies, at {heights[i]:.2f} mm",
            )
    for i, gap in enumerate(gaps):
        if gap > 1.5 * usual + _ROUNDING_MM:
            lost = max(1, round(gap / usual) - 1)
            where = f"after {slices[i].name} at {heights[i]:.2f} mm the next slice follows {gap:.2f} mm on, not {usual:.2f}"
            raise broken(rules.MISSING_SLICE, path, f"{where}: {lost} missing")
    even = np.linspace(heights[0], heights[-1], len(slices))
    worst = int(np.argmax(np.abs(heights - even)))
    if abs(heights[worst] - even[worst]) > _UNEVEN * usual + _ROUNDING_MM:
        raise broken(
            rules.MISSING_SLICE,
            slices[worst].file,
            f"lies {abs(heights[worst] - even[worst]):.2f} mm from where an even stack of {usual:.2f} mm has it",
        )
    drift = np.linalg.norm((positions[-1] - positions[0]) - normal * (heights[-1] - heights[0]))
    if drift > max(_TILT * (heights[-1] - heights[0]), rules.MISPLACED_VOXELS * min(first.spacing)):
        angle = np.degrees(np.arctan2(drift, heights[-1] - heights[0]))
        raise broken(
            rules.GANTRY_TILT, path, f"slices are stacked {angle:.1f} degrees off their normal"
        )
    return slices


def _gaps(slices: Sequence[_Slice], path: pathlib.Path) -> list[IntegrityError]:
    """Returns a warning where numbers say that slices did not arrive; positions show only those
    between others.
    """
    numbers = sorted({one.instance for one in slices if one.instance is not None})
    if not numbers:
        return []
    files, what = (
        len({one.file for one in slices}),
        "slices" if slices[0].frame is None else "files",
    )
    # numbers may begin anywhere, as with the second reconstruction of a scan; but only a few above
    # 1 look like a lost beginning
    begin = 1 if 1 < numbers[0] <= files else numbers[0]
    absent = sorted(set(range(begin, min(numbers[-1] + 1, begin + 100 * files))) - set(numbers))
    expected = max((one.of_acquisition or 0 for one in slices), default=0)
    if absent:
        shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
        problem = f"instance numbers run from {numbers[0]} to {numbers[-1]} without {shown}: {len(absent)} {what} may be missing"
    elif expected > len(slices):
        problem = f"holds {len(slices)} slices of the {expected} that its acquisition gave (ImagesInAcquisition)"
    else:
        return []
    return [broken(rules.INSTANCE_GAP, path, problem)]


def _require_whole_concatenations(headers: Sequence[Header], path: pathlib.Path) -> None:
    """Raises where a multi-frame image was written in several files, a concatenation, and not all
    of them are there.
    """
    parts: dict[str, set[int]] = defaultdict(set)
    totals: dict[str, int] = {}
    for header in headers:
        with contextlib.suppress(IntegrityError):  # nothing else depends on it
            uid, part, total = (
                header.text("ConcatenationUID"),
                header.short("InConcatenationNumber"),
                header.short("InConcatenationTotalNumber"),
            )
            if uid and part is not None and total is not None:
                parts[uid].add(part)
                totals[uid] = max(total, totals.get(uid, 0))
    for uid, total in totals.items():
        absent = sorted(set(range(1, total + 1)) - parts[uid])
        if absent:
            shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
            raise broken(
                rules.MISSING_SLICE,
                path,
                f"holds {len(parts[uid])} of the {total} files of one image (concatenation), without {shown}",
            )


def _voxels(slices: Sequence[_Slice]) -> tuple[np.ndarray, list[IntegrityError]]:
    """Returns HU [x, y, z], and warnings."""
    rows, columns = slices[0].size
    opened: tuple[pathlib.Path, np.ndarray] | None = None
    hu, in_tissue = None, 0
    for number, one in enumerate(slices):
        if opened is None or opened[0] != one.file:
            opened = (one.file, _pixels(one.stored))
        pixels = opened[1] if one.frame is None else opened[1][one.frame]
        if hu is None:  # after the first picture, so that a header alone cannot reserve memory
            hu = np.empty((len(slices), rows, columns), dtype=np.int16)
        padded, doubtful = _padded(pixels, one)
        in_tissue += doubtful
        measured = pixels if padded is None else pixels[~padded]
        lowest, highest = (int(measured.min()), int(measured.max())) if measured.size else (0, 0)
        _require_in_range(one.stored, lowest, highest)
        slope, intercept = one.rescale
        whole = (
            slope == 1.0
            and intercept.is_integer()
            and lowest + intercept >= -32768
            and highest + intercept <= 32767
        )
        if hu.dtype == np.int16 and whole:
            # modulo 2**16, which is exact since every result fits
            hu[number] = pixels.astype(np.int16) + np.array(
                int(intercept) % 2**16, np.uint16
            ).astype(np.int16)
        else:
            hu = hu.astype(np.float32, copy=False)
            hu[number] = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        if padded is not None:
            hu[number][padded] = _AIR_HU
    warnings = []
    if in_tissue:
        problem = f"PixelPaddingValue {slices[0].stored.padding} stands for HU of tissue; {in_tissue} pixels at borders became air"
        warnings.append(broken(rules.PADDING_IN_TISSUE, slices[0].file, problem))
    return hu.transpose(2, 1, 0), warnings


def _padded(pixels: np.ndarray, one: _Slice) -> tuple[np.ndarray | None, int]:
    """Returns which pixels of a slice are padding, None without any, and how many of them have
    values of tissue.
    """
    if one.stored.padding is None:
        return None, 0
    first, last = one.stored.padding
    mask = (pixels >= first) & (pixels <= last)
    if not mask.any():
        return None, 0
    slope, intercept = one.rescale
    low, high = sorted((first * slope + intercept, last * slope + intercept))
    if high <= _PADDING_TISSUE_HU[0] or low >= _PADDING_TISSUE_HU[1]:
        return mask, 0
    # a value that tissue has too: outside the reconstruction it fills the border, inside the
    # patient it stands alone
    parts, _ = scipy.ndimage.label(mask)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    mask = np.isin(parts, border[border > 0])
    count = int(np.count_nonzero(mask))
    return (mask, count) if count else (None, 0)


def _require_in_range(stored: _Stored, lowest: int, highest: int) -> None:
    """Raises where pixels do not fit into the bits that the header says: readers differ in what
    they make of the others.
    """
    used = stored.bits[1]
    low, high = (-(2 ** (used - 1)), 2 ** (used - 1) - 1) if stored.signed else (0, 2**used - 1)
    if lowest < low or highest > high:
        kind = "signed" if stored.signed else "unsigned"
        problem = f"BitsStored is {used} ({kind}), but pixels range from {lowest} to {highest}"
        raise broken(rules.ATTRIBUTE, stored.file, problem)


def _pixels(stored: _Stored) -> np.ndarray:
    """Returns the pixels of a file: [rows, columns], of a multi-frame file [frames, rows, columns]."""
    shape = stored.size if stored.frames is None else (stored.frames, *stored.size)
    if stored.transfer_syntax in dicom_header.NATIVE:
        kind = np.dtype(f"<{'i' if stored.signed else 'u'}{stored.bits[0] // 8}")
        try:
            pixels = np.fromfile(
                stored.file, kind, count=int(np.prod(shape)), offset=stored.where.start
            )
        except OSError as error:
            raise broken(
                rules.MISSING, stored.file, f"cannot be read ({error.strerror})"
            ) from error
        if pixels.size == np.prod(shape):
            return pixels.reshape(shape)
        raise broken(
            rules.UNDECODABLE, stored.file, f"holds {pixels.size} pixels instead of {shape}"
        )
    pixels = dicom_header.decode(stored.file, stored.transfer_syntax)
    if stored.frames == 1 and pixels.ndim == 2:
        pixels = pixels[np.newaxis]
    if pixels.shape != shape or pixels.dtype.kind not in "iu":
        raise broken(
            rules.UNDECODABLE,
            stored.file,
            f"decodes to {pixels.shape} pixels of {pixels.dtype} instead of {shape}",
        )
    return pixels


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.abs(np.subtract(one, other)).max())
