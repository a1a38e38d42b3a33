"""The foreground of a label map: the box around it, or its runs along z.

About one voxel in a hundred is pancreas or tumour. The box makes it cheap to resample and store a
label map. The runs index every foreground voxel in a few kilobytes, which is all that sampling
needs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from preprocessing import axes, geometry
from preprocessing.axes import three
from preprocessing.volume import Grid


@dataclasses.dataclass(frozen=True, eq=False)
class LabelBox:
    """The box around the foreground.

    Attributes:
      shape: voxels of the whole label map along x, y, z.
      start: first voxel of the box.
      voxels: uint8 [x, y, z] of the box, C-ordered; empty if there is no foreground.
    """

    shape: tuple[int, int, int]
    start: tuple[int, int, int]
    voxels: np.ndarray

    @classmethod
    def of(cls, label: np.ndarray) -> LabelBox:
        """Returns the box of a label map, uint8 [x, y, z] in any memory order."""
        box = tuple(slice(0, n) for n in label.shape)
        # the slowest axis first, because its slices are contiguous
        for axis in axes.memory_order(label):
            part = np.moveaxis(label[box], axis, 0)
            hit = np.flatnonzero([plane.max(initial=0) for plane in part])
            begin, end = (int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, 0)
            box = tuple(slice(begin, end) if i == axis else old for i, old in enumerate(box))
        start = three(s.start for s in box)
        return cls(three(label.shape), start, np.ascontiguousarray(label[box]))

    @property
    def slices(self) -> axes.Box:
        return three(
            slice(start, start + n) for start, n in zip(self.start, self.voxels.shape, strict=True)
        )

    def to_ras(self, native: Grid) -> LabelBox:
        """Returns the box in RAS+ order of a label map on the grid `native`."""
        turn = geometry.turn_to_ras(native.affine)
        shape, start = (
            tuple(values[axis] for axis in turn.axes) for values in (self.shape, self.start)
        )
        return self._turned(shape, start, geometry.to_ras_order(self.voxels, native), turn.flips)

    def from_ras(self, native: Grid) -> LabelBox:
        """Returns the box in the order of `native` of a label map in RAS+ order."""
        turn = geometry.turn_to_ras(native.affine)
        back = np.argsort(turn.axes)
        shape, start = (tuple(values[axis] for axis in back) for values in (self.shape, self.start))
        return self._turned(
            shape,
            start,
            geometry.from_ras(self.voxels, native),
            tuple(turn.flips[axis] for axis in back),
        )

    @staticmethod
    def _turned(
        shape: Sequence[int], start: Sequence[int], voxels: np.ndarray, flips: Sequence[bool]
    ) -> LabelBox:
        place = three(
            n - begin - size if flip else begin
            for n, begin, size, flip in zip(shape, start, voxels.shape, flips, strict=True)
        )
        return LabelBox(three(shape), place, np.ascontiguousarray(voxels))

    def array(self, order: Literal["C", "F"] = "C") -> np.ndarray:
        """Returns the whole label map, uint8 [x, y, z]."""
        label = np.zeros(self.shape, dtype=np.uint8, order=order)
        label[self.slices] = self.voxels
        return label

    def runs(self) -> LabelRuns:
        """Returns the same foreground as runs."""
        _, y, z = self.voxels.shape
        # a background voxel after each line along z ends its last run
        lines = np.zeros((self.voxels.size // z if z else 0, z + 1), dtype=np.uint8)
        lines[:, :z] = self.voxels.reshape(-1, z) if z else 0
        flat = lines.ravel()
        before = np.concatenate([np.zeros(1, dtype=np.uint8), flat[:-1]])
        edge = flat != before
        first, end = np.flatnonzero(edge & (flat > 0)), np.flatnonzero(edge & (before > 0))
        line, place = np.divmod(first, z + 1)
        plane, row = np.divmod(line, max(y, 1))
        voxel = [
            index + offset for index, offset in zip((plane, row, place), self.start, strict=True)
        ]
        starts = np.ravel_multi_index(voxel, self.shape) if len(first) else np.zeros(0)
        return LabelRuns(
            self.shape, np.stack([starts, end - first, flat[first]], axis=1).astype(np.int32)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LabelRuns:
    """The foreground as runs of one class along z, in C order.

    Attributes:
      shape: voxels of the whole label map along x, y, z.
      runs: int32 [n, 3]: flat C-order index of the first voxel, number of voxels, class. Ascending
          and without overlap.
    """

    shape: tuple[int, int, int]
    runs: np.ndarray

    @functools.cached_property
    def box(self) -> axes.Box:
        """The smallest box around the foreground, along x, y, z; empty if there is none."""
        if not len(self.runs):
            return three(slice(0, 0) for _ in range(3))
        x, y, z = np.unravel_index(self.runs[:, 0], self.shape)
        firsts = (x.min(), y.min(), z.min())
        ends = (x.max() + 1, y.max() + 1, (z + self.runs[:, 1]).max())
        return three(slice(int(first), int(end)) for first, end in zip(firsts, ends, strict=True))

    def count(self, class_: int | None = None) -> int:
        """Returns the number of voxels of a class, or of the foreground."""
        ends = self._places(class_)[1]
        return int(ends[-1]) if len(ends) else 0

    def voxel(self, number: int, class_: int | None = None) -> int:
        """Returns the flat C-order index of a voxel of a class, or of the foreground.

        Args:
          number: which one, counted from 0 in ascending order.
        """
        starts, ends, lengths = self._places(class_)
        run = int(np.searchsorted(ends, number, side="right"))
        return int(starts[run]) + number - int(ends[run] - lengths[run])

    def __contains__(self, flat: int) -> bool:
        """Returns whether the voxel with this flat C-order index is foreground."""
        run = int(np.searchsorted(self.runs[:, 0], flat, side="right")) - 1
        return run >= 0 and flat < int(self.runs[run, 0]) + int(self.runs[run, 1])

    def array(self, order: Literal["C", "F"] = "C") -> np.ndarray:
        """Returns the label map, uint8 [x, y, z]."""
        label = np.zeros(self.shape, dtype=np.uint8, order=order)
        starts, lengths, classes = self.runs.T
        inside = np.arange(self.count()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        label[np.unravel_index(np.repeat(starts, lengths) + inside, self.shape)] = np.repeat(
            classes, lengths
        )
        return label

    def _places(self, class_: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if class_ is None:
            return self._all_places
        if class_ not in self._class_places:
            self._class_places[class_] = _places(self.runs[self.runs[:, 2] == class_])
        return self._class_places[class_]

    @functools.cached_property
    def _all_places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _places(self.runs)

    @functools.cached_property
    def _class_places(self) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return {}


def _places(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the start of each run, the number of voxels up to its end, and its length."""
    starts, lengths = (np.ascontiguousarray(runs[:, i]) for i in range(2))
    return starts, np.cumsum(lengths), lengths
