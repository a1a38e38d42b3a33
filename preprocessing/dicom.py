"""A CT series in DICOM files as one volume. The only reader that imports pydicom, which the extra `dicom` installs.

Slices are sorted by where they lie along their normal, never by file name or instance number, and each is rescaled with its own
slope and intercept. What cannot be one upright stack of equidistant slices is refused.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from preprocessing import rules
from preprocessing.rules import broken
from preprocessing.volume import Volume

try:
    import pydicom
except ImportError:  # DICOM is an extra: a site that has NIfTI needs none of it
    pydicom = None

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kin: screenshots and dose reports, marked as CT by many scanners
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_DIRECTION = 1e-3  # between direction cosines of two slices: DICOM prints six digits, some exporters fewer
_UNEVEN = 0.25  # of a slice distance, from where an even stack has the slice
_ROUNDING_MM = 0.06  # positions are printed with one decimal by some
_TILT = 0.002  # in-plane drift by length: 0.1 degrees


@dataclasses.dataclass(frozen=True)
class _Slice:
    """One slice: where it lies and how its pixels become HU. `frame` is its number in a multi-frame file."""

    file: pathlib.Path
    frame: int | None
    size: tuple[int, int]  # rows, columns
    position: tuple[float, float, float]  # mm, DICOM's LPS
    directions: tuple[float, ...]  # along a row, along a column
    spacing: tuple[float, float]  # between rows, between columns
    rescale: tuple[float, float]


def require_reader() -> None:
    """Raises ValueError, with the way out, where the extra is not installed."""
    if pydicom is None:
        raise ValueError("DICOM series need pydicom and its decoders, which are not installed: pip install -e '.[dicom]'")


def files_in(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the files below a folder that may be DICOM, sorted by name; hidden ones and macOS' ._ files are left out."""
    return sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file() and not path.name.startswith("."))


def read_series(folder: str | os.PathLike, series: str | None = None) -> Volume:
    """Reads the CT series in a folder or in folders below it.

    Args:
      folder: holds one CT series; localizers, screenshots, other modalities and files that are no DICOM are left out.
      series: SeriesInstanceUID, where the folder holds several.
    Returns:
      HU [x, y, z]: x along a row, y along a column, z along the normal. int16 where every value is a whole number that fits, else
      float32. Fortran-ordered.
    Raises:
      IntegrityError: naming folder or slice, for the first rule of group D that is broken.
      ValueError: without pydicom.
    """
    require_reader()
    slices = _sorted(list(_slices(_series(pathlib.Path(folder), series))), folder)
    first, last = slices[0], slices[-1]
    steps = (np.array(last.position) - first.position) / (len(slices) - 1)
    # of length one: some scanners print cosines with so few digits that a voxel would grow by them
    row, column = (direction / np.linalg.norm(direction) for direction in np.reshape(first.directions, (2, 3)))
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ np.stack([row * first.spacing[1], column * first.spacing[0], steps], axis=1)
    affine[:3, 3] = _LPS_TO_RAS @ first.position
    return Volume(_voxels(slices), affine)


def slice_files(folder: str | os.PathLike, series: str | None = None) -> list[pathlib.Path]:
    """Returns the file of each slice in the order of z of `read_series`; a multi-frame file stands there once a frame. Raises as that."""
    require_reader()
    return [one.file for one in _sorted(list(_slices(_series(pathlib.Path(folder), series))), folder)]


def _series(folder: pathlib.Path, wanted: str | None) -> list[tuple[pathlib.Path, Any]]:
    """Returns file and header of the slices of the one CT series."""
    if not folder.is_dir():
        raise broken(rules.MISSING, folder, "no such folder")
    groups: dict[str, list[tuple[pathlib.Path, Any]]] = defaultdict(list)
    others: Counter[str] = Counter()
    captures: list[tuple[pathlib.Path, Any]] = []
    for path in files_in(folder):
        header = _header(path)
        if header is None:
            continue
        modality, kind = str(header.get("Modality", "unknown")), [str(v).upper() for v in header.get("ImageType", None) or ()]
        if modality != "CT" or "Rows" not in header:
            others[modality] += 1
        elif "LOCALIZER" in kind:
            others["localizer"] += 1
        elif str(header.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE):
            captures.append((path, header))
        else:
            groups[str(header.get("SeriesInstanceUID", ""))].append((path, header))
    if wanted is not None and wanted in groups:
        return groups[wanted]
    listed = ", ".join(f"{uid} ({len(slices)} files)" for uid, slices in sorted(groups.items()))
    if wanted is not None:
        raise broken(rules.SEVERAL_SERIES, folder, f"holds no CT series {wanted}, but {listed or 'none'}")
    if len(groups) > 1:
        raise broken(rules.SEVERAL_SERIES, folder, f"holds {len(groups)} CT series: {listed}")
    if groups:
        return next(iter(groups.values()))
    if captures:
        raise broken(rules.NOT_GREY, captures[0][0], "is a secondary capture: a picture, not a reconstruction")
    if others:
        found = ", ".join(f"{count} {name}" for name, count in sorted(others.items()))
        raise broken(rules.NOT_CT, folder, f"holds no CT slices, but {found}")
    raise broken(rules.NO_SERIES, folder, "holds no DICOM file")


def _header(path: pathlib.Path) -> Any:
    """Returns the header of a DICOM file, None for a file of another kind."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError as error:
        if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
            raise broken(rules.UNDECODABLE, path, "is named as a DICOM file and is none, or cut short in its header") from error
        return None
    except Exception as error:  # pydicom passes on whatever its parser meets in a damaged file
        raise broken(rules.UNDECODABLE, path, f"its header cannot be read ({type(error).__name__}: {error})") from error


def _slices(series: Sequence[tuple[pathlib.Path, Any]]) -> Iterator[_Slice]:
    for path, header in series:
        if int(header.get("SamplesPerPixel", 1)) != 1:
            raise broken(rules.NOT_GREY, path, f"has {header.SamplesPerPixel} channels a pixel")
        size = (int(header.Rows), int(header.get("Columns", 0)))
        if "PerFrameFunctionalGroupsSequence" in header:
            for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
                yield _slice(path, number, size, [frame, *header.get("SharedFunctionalGroupsSequence", ())])
        elif int(header.get("NumberOfFrames", 1) or 1) > 1:
            raise broken(rules.NO_GEOMETRY, path, f"holds {header.NumberOfFrames} frames and no position for each")
        else:
            yield _slice(path, None, size, [header])


def _slice(path: pathlib.Path, frame: int | None, size: tuple[int, int], headers: Sequence[Any]) -> _Slice:
    def values(sequence: str, name: str, count: int) -> tuple[float, ...] | None:
        for header in headers:
            holder = header if frame is None else (header.get(sequence) or [{}])[0]
            value = holder.get(name)
            if value is not None and value != "":
                numbers = tuple(float(v) for v in (value if count > 1 else [value]))
                if len(numbers) == count and np.isfinite(numbers).all():
                    return numbers
        return None

    position = values("PlanePositionSequence", "ImagePositionPatient", 3)
    directions = values("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = values("PixelMeasuresSequence", "PixelSpacing", 2)
    slope = values("PixelValueTransformationSequence", "RescaleSlope", 1)
    intercept = values("PixelValueTransformationSequence", "RescaleIntercept", 1)
    absent = [
        name
        for name, value in (("ImagePositionPatient", position), ("ImageOrientationPatient", directions), ("PixelSpacing", spacing))
        if value is None
    ]
    if absent:
        raise broken(rules.NO_GEOMETRY, path, f"has no {', '.join(absent)}")
    directions_ok = np.abs(np.reshape(directions, (2, 3)) @ np.reshape(directions, (2, 3)).T - np.eye(2)).max() < 10 * _DIRECTION
    if not directions_ok or min(spacing) <= 0:
        raise broken(rules.NO_GEOMETRY, path, f"orientation {directions} or pixel spacing {spacing} places no pixel")
    if slope is None or intercept is None or slope[0] == 0:
        raise broken(rules.NO_RESCALE, path, "has no RescaleSlope and RescaleIntercept")
    return _Slice(path, frame, size, position, directions, spacing, (slope[0], intercept[0]))


def _sorted(slices: list[_Slice], folder: str | os.PathLike) -> list[_Slice]:
    """Returns the slices along their normal, checked to be one upright, even stack."""
    first = slices[0]
    for one in slices:
        for what, differs in (
            (f"size {one.size} instead of {first.size}", one.size != first.size),
            (f"orientation {one.directions} instead of {first.directions}", _apart(one.directions, first.directions) > _DIRECTION),
            (f"pixel spacing {one.spacing} instead of {first.spacing}", _apart(one.spacing, first.spacing) > _DIRECTION),
        ):
            if differs:
                raise broken(rules.MIXED_SLICES, one.file, f"has {what} of {first.file.name}")
    if len(slices) < 2:
        raise broken(rules.ONE_SLICE, folder, "holds a single slice")
    row, column = np.reshape(first.directions, (2, 3))
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    slices = sorted(slices, key=lambda s: float(np.dot(s.position, normal)))
    positions = np.array([s.position for s in slices])
    heights = positions @ normal
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    for i, gap in enumerate(gaps):
        if gap < max(0.05 * usual, 1e-3):
            raise broken(rules.DUPLICATE_SLICE, slices[i + 1].file, f"lies where {slices[i].file.name} lies, at {heights[i]:.2f} mm")
    for i, gap in enumerate(gaps):
        if gap > 1.5 * usual + _ROUNDING_MM:
            lost = max(1, round(gap / usual) - 1)
            where = f"after {slices[i].file.name} at {heights[i]:.2f} mm the next slice follows {gap:.2f} mm on, not {usual:.2f}"
            raise broken(rules.MISSING_SLICE, folder, f"{where}: {lost} missing")
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
        raise broken(rules.GANTRY_TILT, folder, f"slices are stacked {angle:.1f} degrees off their normal")
    return slices


def _voxels(slices: Sequence[_Slice]) -> np.ndarray:
    rows, columns = slices[0].size
    hu = np.empty((len(slices), rows, columns), dtype=np.int16)
    opened: tuple[pathlib.Path, np.ndarray] | None = None
    for number, one in enumerate(slices):
        if opened is None or opened[0] != one.file:
            opened = (one.file, _pixels(one.file))
        pixels = opened[1] if one.frame is None else opened[1].reshape(-1, rows, columns)[one.frame]
        if pixels.shape != (rows, columns):
            raise broken(rules.UNDECODABLE, one.file, f"decodes to {pixels.shape} pixels instead of {(rows, columns)}")
        slope, intercept = one.rescale
        if hu.dtype == np.int16 and slope == 1.0 and intercept.is_integer():
            exact = pixels.astype(np.int32) + int(intercept)
            if exact.min() >= -32768 and exact.max() <= 32767:
                hu[number] = exact
                continue
        hu = hu.astype(np.float32, copy=False)
        hu[number] = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return hu.transpose(2, 1, 0)


def _pixels(path: pathlib.Path) -> np.ndarray:
    try:
        return pydicom.dcmread(path).pixel_array
    except Exception as error:  # each decoder raises errors of its own kind for damaged or unsupported data
        raise broken(rules.UNDECODABLE, path, f"its pixels cannot be decoded ({type(error).__name__}: {_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.abs(np.subtract(one, other)).max())
