"""Several acquisitions in one series: two contrast phases, or two passes of the table.

They share a SeriesInstanceUID. If sorted by position, their slices interleave, and if they lie half
a slice apart, the result looks like one even stack. Acquisitions that follow one another along the
patient, such as the blocks of a step-and-shoot scan, form one stack and are kept together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from preprocessing import rules
from preprocessing.dicom_header import Header
from preprocessing.rules import IntegrityError, broken

ALL = "all"
_SAME_PLACE = 0.05  # as a share of the slice distance
_MOST_PASSES = 20
# Attributes besides number and time that have a single value within an acquisition and its
# reconstruction.
_SETTINGS = (
    "AcquisitionDateTime",
    "TemporalPositionIdentifier",
    "KVP",
    "ConvolutionKernel",
    "ImageType",
    "FrameOfReferenceUID",
    "StudyInstanceUID",
)


@dataclasses.dataclass(frozen=True)
class Marks:
    """The values that identify the acquisition of a slice; None for those that the file lacks.

    Attributes:
      number: number of the acquisition.
      time: time of the acquisition.
      order: number of the slice within the series.
      settings: further attributes by name, without those that the file lacks.
    """

    number: int | None
    time: str | None
    order: int | None
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, header: Header, content: Header | None, frame: int | None) -> Marks:
        """Returns the marks of a slice.

        Args:
          header: header of its file.
          content: describes only this slice: the header itself, or the content of its frame.
          frame: index in a multi-frame file; None in a file of one slice.
        """
        if content is None:
            return cls(None, None, frame)
        number: int | None = None
        time: str | None = None
        order = frame
        # A malformed value is ignored, because nothing else depends on it.
        with contextlib.suppress(IntegrityError):
            if frame is not None:
                number = content.short("FrameAcquisitionNumber")
            else:
                number = content.count("AcquisitionNumber")
        with contextlib.suppress(IntegrityError):
            name = "AcquisitionTime" if frame is None else "FrameAcquisitionDateTime"
            time = content.text(name) or None
        if frame is None:
            with contextlib.suppress(IntegrityError):
                order = header.count("InstanceNumber")
        return cls(number, time, order, _settings(content, frame))


class MarkedSlice(Protocol):
    """The properties of a slice that this module needs; `dicom_slices.Slice` has them."""

    @property
    def position(self) -> tuple[float, float, float]: ...

    @property
    def directions(self) -> tuple[float, ...]: ...

    @property
    def acquisition(self) -> Marks: ...


S = TypeVar("S", bound=MarkedSlice)
V = TypeVar("V", int, str)


def _settings(content: Header, frame: int | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _SETTINGS if frame is None else ("StackID",):
        with contextlib.suppress(IntegrityError):
            found[name] = "\\".join(content.texts(name))
    return {name: value for name, value in found.items() if value}


def normal_of(directions: Sequence[float]) -> np.ndarray:
    """Returns the unit normal of a slice from the six cosines of its rows and columns."""
    row, column = np.reshape(directions, (2, 3))
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def choose(path: pathlib.Path, uid: str, slices: list[S], wanted: str | None) -> list[S]:
    """Returns the slices of one acquisition.

    Args:
      path: path of the series, for error messages.
      uid: UID of the series, for error messages.
      slices: slices with the same size, spacing and orientation.
      wanted: which acquisition; `ALL` to read the series as one; None to expect a single one.
    Raises:
      IntegrityError: if several acquisitions overlap and `wanted` is None, or the wanted one does
          not exist.
    """
    if wanted == ALL:
        return slices
    heights = np.array([one.position for one in slices]) @ normal_of(slices[0].directions)
    groups = _overlapping(slices, heights)
    if wanted is not None:
        groups = (
            groups
            or _grouped(one.acquisition.number for one in slices)
            or {"1": list(range(len(slices)))}
        )
        if wanted in groups:
            return [slices[i] for i in groups[wanted]]
        listed = _listed(groups, slices, heights)
        problem = f"series {uid} holds no acquisition {wanted}, but {listed}"
        raise broken(rules.SEVERAL_ACQUISITIONS, path, problem)
    if groups:
        listed = _listed(groups, slices, heights)
        problem = f"series {uid} holds {len(groups)} acquisitions that overlap: {listed}"
        raise broken(rules.SEVERAL_ACQUISITIONS, path, problem)
    return slices


def _overlapping(slices: Sequence[MarkedSlice], heights: np.ndarray) -> dict[str, list[int]]:
    """Returns acquisitions that overlap along the patient, as lists of slice indices.

    The result is {} if there is only one acquisition, or if they follow one another.
    """
    marks = [one.acquisition for one in slices]
    names: set[str] = set().union(*(mark.settings for mark in marks))
    for groups in (
        _grouped(mark.number for mark in marks),
        _numbered(_grouped(mark.time for mark in marks)),
        *(_numbered(_grouped(mark.settings.get(name) for mark in marks)) for name in sorted(names)),
        _passes_in_order(marks, heights),
        _passes_over_places(marks, heights),
    ):
        if len(groups) > 1 and _overlap([heights[members] for members in groups.values()]):
            return groups
    return {}


def _grouped(values: Iterable[V | None]) -> dict[str, list[int]]:
    """Returns the slices grouped by a value, {} unless every slice has the value."""
    groups: dict[V, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        if value is None:
            return {}
        groups[value].append(i)
    return {str(value): groups[value] for value in sorted(groups)}


def _numbered(groups: Mapping[str, list[int]]) -> dict[str, list[int]]:
    return {str(number): members for number, members in enumerate(groups.values(), start=1)}


def _passes_over_places(marks: Sequence[Marks], heights: np.ndarray) -> dict[str, list[int]]:
    """Returns the passes of a series that has the same number of slices at every place.

    The order of the slices' numbers tells the passes apart.
    """
    by_height = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[by_height])
    real = gaps[gaps > 1e-3]
    if not len(real) or len(real) == len(gaps):
        return {}
    places = np.split(
        by_height, np.flatnonzero(gaps > max(1e-3, _SAME_PLACE * float(np.median(real)))) + 1
    )
    if len({len(place) for place in places}) > 1:
        return {}
    groups: dict[str, list[int]] = defaultdict(list)
    for place in places:
        orders = {order: int(i) for i in place if (order := marks[i].order) is not None}
        if len(orders) < len(place):  # copies of one file are not acquisitions
            return {}
        for number, order in enumerate(sorted(orders), start=1):
            groups[str(number)].append(orders[order])
    return dict(groups)


def _passes_in_order(marks: Sequence[Marks], heights: np.ndarray) -> dict[str, list[int]]:
    """Returns the passes of a series whose numbers run along the patient several times."""
    orders = [mark.order for mark in marks if mark.order is not None]
    if len(set(orders)) < len(marks) or len(orders) < 6:
        return {}
    in_order = np.argsort(orders)
    signs = np.sign(np.diff(heights[in_order]))
    groups, start, direction = [], 0, 0.0
    for i, sign in enumerate(signs):
        if direction not in (0.0, sign):
            groups.append(in_order[start : i + 1])
            start, direction = i + 1, 0.0
        else:
            direction = sign
    groups.append(in_order[start:])
    # Where the table reverses, the length of its step shows to which pass the last slice belongs.
    for i, members in enumerate(groups[:-1]):
        steps = np.abs(np.diff(heights[members]))
        if len(steps) > 2 and abs(steps[-1] - np.median(steps)) > 0.1 * np.median(steps):
            groups[i], groups[i + 1] = members[:-1], np.concatenate([members[-1:], groups[i + 1]])
    extent = np.ptp(heights)
    # Each pass covers most of the patient; numbers in random order give many short runs.
    if not 2 <= len(groups) <= _MOST_PASSES or any(
        len(g) < 3 or np.ptp(heights[g]) < extent / 2 for g in groups
    ):
        return {}
    return {
        str(number): [int(i) for i in members] for number, members in enumerate(groups, start=1)
    }


def _overlap(groups: Sequence[np.ndarray]) -> bool:
    """Returns whether two groups of heights share more than a slice at their ends."""
    several = [np.sort(heights) for heights in groups if len(heights) > 1]
    for i, one in enumerate(several):
        for other in several[i + 1 :]:
            usual = max(float(np.median(np.diff(one))), float(np.median(np.diff(other))))
            if min(one[-1], other[-1]) - max(one[0], other[0]) > 1.01 * usual:
                return True
    return False


def _listed(
    groups: Mapping[str, list[int]], slices: Sequence[MarkedSlice], heights: np.ndarray
) -> str:
    texts = []
    for label, members in groups.items():
        times = sorted(time for i in members if (time := slices[i].acquisition.time))
        at = f" at {times[0]}" if times else ""
        low, high = heights[members].min(), heights[members].max()
        texts.append(f"#{label} ({len(members)} slices{at}, {low:.1f} to {high:.1f} mm)")
    return ", ".join(texts)
