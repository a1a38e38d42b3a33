"""Several acquisitions in one series: two phases of contrast, or two passes of the table, under one
SeriesInstanceUID.

Sorted by position their slices interleave, and where they lie half a slice apart the result looks
like one even stack. Acquisitions that follow each other along the patient, as the blocks of a
step-and-shoot scan do, are one stack and are left alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from preprocessing.checks import rules
from preprocessing.checks.rules import IntegrityError, broken
from preprocessing.dicom_header import Header

ALL = "all"
_SAME_PLACE = 0.05  # of a slice distance
_MOST_PASSES = 20
# what is one value within an acquisition and its reconstruction, besides number and time
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
    """What tells the acquisition of a slice; None where the file does not say it.

    Attributes:
      order: its number within the series.
      settings: further attributes, each by its name; one that the file does not give is not in it.
    """

    number: int | None
    time: str | None
    order: int | None
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, header: Header, content: Header | None, frame: int | None) -> Marks:
        """Returns the marks of a slice.

        Args:
          header: of its file.
          content: what describes the slice alone: the header itself, or the frame's content.
        """
        number, time = (
            ("AcquisitionNumber", "AcquisitionTime")
            if frame is None
            else ("FrameAcquisitionNumber", "FrameAcquisitionDateTime")
        )
        if content is None:
            return cls(None, None, frame)
        found: dict[str, Any] = {"number": None, "time": None, "order": frame}
        with contextlib.suppress(
            IntegrityError
        ):  # a value of another kind tells nothing, and nothing else depends on it
            if frame is not None:
                found["number"] = content.short(number)
            else:
                found["number"] = content.count(number)
        with contextlib.suppress(IntegrityError):
            found["time"] = content.text(time) or None
        if frame is None:
            with contextlib.suppress(IntegrityError):
                found["order"] = header.count("InstanceNumber")
        return cls(**found, settings=_settings(content, frame))


def _settings(content: Header, frame: int | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _SETTINGS if frame is None else ("StackID",):
        with contextlib.suppress(IntegrityError):
            found[name] = "\\".join(content.texts(name))
    return {name: value for name, value in found.items() if value}


def normal_of(directions: Sequence[float]) -> np.ndarray:
    """Returns the unit vector across slices whose rows and columns run along `directions` (six
    cosines).
    """
    row, column = np.reshape(directions, (2, 3))
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def choose(path: pathlib.Path, uid: str, slices: list, wanted: str | None) -> list:
    """Returns the slices of one acquisition.

    Args:
      path: what holds the series, as errors name it.
      slices: of one size, spacing and orientation, with `position`, `directions` and `acquisition`.
      wanted: which acquisition, `ALL` to take the series for one, None where it should be the only
          one.
    Raises:
      IntegrityError: if there are several that overlap and none is wanted, or the wanted one is not
          there.
    """
    if wanted == ALL:
        return slices
    heights = np.array([one.position for one in slices]) @ normal_of(slices[0].directions)
    groups = _overlapping(slices, heights)
    if wanted is not None:
        groups = (
            groups
            or _by(one.acquisition.number for one in slices)
            or {"1": list(range(len(slices)))}
        )
        if wanted in groups:
            return [slices[i] for i in groups[wanted]]
        raise broken(
            rules.SEVERAL_ACQUISITIONS,
            path,
            f"series {uid} holds no acquisition {wanted}, but {_listed(groups, slices, heights)}",
        )
    if groups:
        problem = f"series {uid} holds {len(groups)} acquisitions that overlap: {_listed(groups, slices, heights)}"
        raise broken(rules.SEVERAL_ACQUISITIONS, path, problem)
    return slices


def _overlapping(slices: Sequence, heights: np.ndarray) -> dict[str, list[int]]:
    """Returns acquisitions that overlap along the patient as indices of slices, {} where there is
    one, or they follow each other.
    """
    marks = [one.acquisition for one in slices]
    for groups in (
        _by(mark.number for mark in marks),
        _numbered(_by(mark.time for mark in marks)),
        *(
            _numbered(_by(mark.settings.get(name) for mark in marks))
            for name in sorted(set().union(*(mark.settings for mark in marks)))
        ),
        _passes_in_order(marks, heights),
        _passes_over_places(marks, heights),
    ):
        if len(groups) > 1 and _overlap([heights[members] for members in groups.values()]):
            return groups
    return {}


def _by(values: Iterable[Hashable]) -> dict[str, list[int]]:
    """Returns slices by a value that every one of them has, {} otherwise."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        groups[value].append(i)
    return {} if None in groups else {str(value): groups[value] for value in sorted(groups)}


def _numbered(groups: Mapping[str, list[int]]) -> dict[str, list[int]]:
    return {str(number): members for number, members in enumerate(groups.values(), start=1)}


def _passes_over_places(marks: Sequence[Marks], heights: np.ndarray) -> dict[str, list[int]]:
    """Returns the passes of a series whose slices lie at each place equally often, told apart by
    their numbers.
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
        orders = [marks[i].order for i in place]
        if None in orders or len(set(orders)) < len(
            orders
        ):  # copies of one file are no acquisitions
            return {}
        for number, i in enumerate(sorted(place, key=lambda i: marks[i].order), start=1):
            groups[str(number)].append(int(i))
    return dict(groups)


def _passes_in_order(marks: Sequence[Marks], heights: np.ndarray) -> dict[str, list[int]]:
    """Returns the passes of a series whose numbers run along the patient several times."""
    orders = [mark.order for mark in marks]
    if None in orders or len(set(orders)) < len(orders) or len(orders) < 6:
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
    for i, members in enumerate(
        groups[:-1]
    ):  # where the table turns, its step shows which pass the last slice belongs to
        steps = np.abs(np.diff(heights[members]))
        if len(steps) > 2 and abs(steps[-1] - np.median(steps)) > 0.1 * np.median(steps):
            groups[i], groups[i + 1] = members[:-1], np.concatenate([members[-1:], groups[i + 1]])
    extent = np.ptp(heights)
    # each pass covers most of the patient; numbers in no order at all make many short runs
    if not 2 <= len(groups) <= _MOST_PASSES or any(
        len(g) < 3 or np.ptp(heights[g]) < extent / 2 for g in groups
    ):
        return {}
    return {
        str(number): [int(i) for i in members] for number, members in enumerate(groups, start=1)
    }


def _overlap(groups: Sequence[np.ndarray]) -> bool:
    """Returns whether two of the groups share more of the patient than a slice at their ends."""
    several = [np.sort(heights) for heights in groups if len(heights) > 1]
    for i, one in enumerate(several):
        for other in several[i + 1 :]:
            usual = max(float(np.median(np.diff(one))), float(np.median(np.diff(other))))
            if min(one[-1], other[-1]) - max(one[0], other[0]) > 1.01 * usual:
                return True
    return False


def _listed(groups: Mapping[str, list[int]], slices: Sequence, heights: np.ndarray) -> str:
    texts = []
    for label, members in groups.items():
        times = sorted({slices[i].acquisition.time for i in members if slices[i].acquisition.time})
        at = f" at {times[0]}" if times else ""
        low, high = heights[members].min(), heights[members].max()
        texts.append(f"#{label} ({len(members)} slices{at}, {low:.1f} to {high:.1f} mm)")
    return ", ".join(texts)
