"""Checks that the slices of a series form one upright, complete and evenly spaced stack."""

from __future__ import annotations

import contextlib
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from preprocessing import dicom_acquisitions, dicom_slices, rules
from preprocessing.dicom_folder import Series
from preprocessing.dicom_header import Header
from preprocessing.dicom_slices import DIRECTION_TOLERANCE, Slice
from preprocessing.rules import IntegrityError, broken

_UNEVEN = 0.25  # largest offset from an even stack, as a share of the slice distance
_ROUNDING_MM = 0.06  # some writers print positions with one decimal
_TILT = 0.002  # in-plane drift per length of the stack: 0.1 degrees


def require_alike(slices: Sequence[Slice]) -> None:
    """Raises IntegrityError unless all slices have the same size, orientation and pixel spacing."""
    first = slices[0]
    for one in slices:
        differs = _difference(one, first)
        if differs:
            raise broken(rules.MIXED_SLICES, one.file, f"has {differs} of {first.file.name}")


def require_no_slice_left_out(series: Series, first: Slice) -> None:
    """Raises IntegrityError if a file that was left out of the series has the slices' geometry."""
    for kind, header in series.left_out:
        try:
            alike = not any(_difference(one, first) for one in dicom_slices.slices_of(header))
        except IntegrityError:
            continue  # without position or pixels it is not a CT slice
        if alike:
            problem = f"belongs to the series and fits its stack of slices, but is marked as {kind}"
            raise broken(rules.MIXED_SLICES, header.path, problem)


def sorted_stack(slices: Sequence[Slice], path: pathlib.Path) -> list[Slice]:
    """Returns the slices sorted along their normal.

    Raises:
      IntegrityError: if there is only one slice, two lie at the same place, one is missing, the
          distances are uneven, or the stack is tilted.
    """
    if len(slices) < 2:
        remedy = "give the folder that holds all slices of the series" if path.is_file() else ""
        raise broken(rules.ONE_SLICE, path, "holds a single slice", remedy)
    first = slices[0]
    normal = dicom_acquisitions.normal_of(first.directions)
    slices = sorted(slices, key=lambda s: float(np.dot(s.position, normal)))
    positions = np.array([s.position for s in slices])
    heights = positions @ normal
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    for i, gap in enumerate(gaps):
        if gap < max(0.05 * usual, 1e-3):
            problem = f"lies at the same place as {slices[i].name}, at {heights[i]:.2f} mm"
            raise broken(rules.DUPLICATE_SLICE, slices[i + 1].file, problem)
    for i, gap in enumerate(gaps):
        if gap > 1.5 * usual + _ROUNDING_MM:
            lost = max(1, round(gap / usual) - 1)
            problem = (
                f"after {slices[i].name} at {heights[i]:.2f} mm the next slice is {gap:.2f} mm "
                f"away, not {usual:.2f}: {lost} missing"
            )
            raise broken(rules.MISSING_SLICE, path, problem)
    even = np.linspace(heights[0], heights[-1], len(slices))
    worst = int(np.argmax(np.abs(heights - even)))
    offset = abs(heights[worst] - even[worst])
    if offset > _UNEVEN * usual + _ROUNDING_MM:
        problem = (
            f"lies {offset:.2f} mm from its place in an even stack of slices {usual:.2f} mm apart"
        )
        raise broken(rules.MISSING_SLICE, slices[worst].file, problem)
    length = heights[-1] - heights[0]
    drift = np.linalg.norm((positions[-1] - positions[0]) - normal * length)
    if drift > max(_TILT * length, rules.MISPLACED_VOXELS * min(first.spacing)):
        angle = np.degrees(np.arctan2(drift, length))
        problem = f"slices are stacked {angle:.1f} degrees off their normal"
        raise broken(rules.GANTRY_TILT, path, problem)
    return slices


def gap_warnings(slices: Sequence[Slice], path: pathlib.Path) -> list[IntegrityError]:
    """Returns a warning if the numbering of the slices has a gap.

    It detects slices missing at the ends of the stack, which positions cannot show.
    """
    numbers = sorted({one.instance for one in slices if one.instance is not None})
    if not numbers:
        return []
    files = len({one.file for one in slices})
    unit = "slices" if slices[0].frame is None else "files"
    # Numbers may begin anywhere, e.g. in the second reconstruction of a scan. Only a first number
    # slightly above 1 suggests that the beginning is missing.
    begin = 1 if 1 < numbers[0] <= files else numbers[0]
    absent = sorted(set(range(begin, min(numbers[-1] + 1, begin + 100 * files))) - set(numbers))
    expected = max((one.of_acquisition or 0 for one in slices), default=0)
    if absent:
        problem = (
            f"instance numbers run from {numbers[0]} to {numbers[-1]} "
            f"without {_first_few(absent)}: {len(absent)} {unit} may be missing"
        )
    elif expected > len(slices):
        problem = (
            f"holds {len(slices)} slices of the {expected} that its acquisition produced "
            "(ImagesInAcquisition)"
        )
    else:
        return []
    return [broken(rules.INSTANCE_GAP, path, problem)]


def require_whole_concatenations(headers: Iterable[Header], path: pathlib.Path) -> None:
    """Raises IntegrityError if a file of a concatenation is missing.

    A concatenation is one multi-frame image written in several files.
    """
    parts: dict[str, set[int]] = defaultdict(set)
    totals: dict[str, int] = {}
    for header in headers:
        with contextlib.suppress(IntegrityError):  # nothing else depends on these attributes
            uid = header.text("ConcatenationUID")
            part = header.short("InConcatenationNumber")
            total = header.short("InConcatenationTotalNumber")
            if uid and part is not None and total is not None:
                parts[uid].add(part)
                totals[uid] = max(total, totals.get(uid, 0))
    for uid, total in totals.items():
        absent = sorted(set(range(1, total + 1)) - parts[uid])
        if absent:
            problem = (
                f"holds {len(parts[uid])} of the {total} files of one image (concatenation), "
                f"without {_first_few(absent)}"
            )
            raise broken(rules.MISSING_SLICE, path, problem)


def _difference(one: Slice, first: Slice) -> str | None:
    if one.size != first.size:
        return f"size {one.size} instead of {first.size}"
    if _apart(one.directions, first.directions) > DIRECTION_TOLERANCE:
        return f"orientation {one.directions} instead of {first.directions}"
    if _apart(one.spacing, first.spacing) > DIRECTION_TOLERANCE:
        return f"pixel spacing {one.spacing} instead of {first.spacing}"
    return None


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.abs(np.subtract(one, other)).max())


def _first_few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
