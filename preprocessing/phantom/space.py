"""Implicit shapes of the synthetic patient, and the canvas on which they are painted.

Distances are signed, in mm, negative inside. They are accurate near a surface and only approximate
far from it, which is enough for painting with a soft edge and for thresholding.

Coordinates are in mm in the frame of the *patient*, not of the scanner: x to the patient's right, y
to the front, z to the head, with the origin at the centre of the vertebral body at the level of the
pancreas. `Space` maps between the two frames. Its smooth random deformation makes every organ
differ from an ideal ellipsoid.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

Box = tuple[slice, slice, slice]
Vector = Sequence[float] | np.ndarray  # x, y, z
REACH_MM = 12.0  # outside a tube, distances are computed up to this value and constant beyond


def overlap(a: Box, b: Box) -> Box | None:
    """Returns the common part of two boxes, or None if they have none."""
    x, y, z = (slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
    if x.stop <= x.start or y.stop <= y.start or z.stop <= z.start:
        return None
    return x, y, z


def relative(inner: Box, outer: Box) -> Box:
    """Returns `inner` as an index into an array that covers `outer`."""
    x, y, z = (
        slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)
    )
    return x, y, z


@dataclasses.dataclass(frozen=True)
class Pose:
    """The patient's rotation about the long axis, relative size, and shift on the table."""

    rotation_deg: float = 0.0
    size: float = 1.0
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Space:
    """A coarse isotropic grid over the field of view, with patient coordinates for each voxel.

    Args:
      lower_mm: scanner coordinates of the first voxel centre.
      upper_mm: scanner coordinates that the last voxel centre reaches or exceeds.
      spacing_mm: spacing of the grid along every axis.
      pose: the patient's pose.
      deformation_mm: standard deviation of the smooth deformation.
      rng: source of the deformation and the noise fields.
    """

    def __init__(
        self,
        lower_mm: Vector,
        upper_mm: Vector,
        spacing_mm: float,
        pose: Pose,
        deformation_mm: float,
        rng: np.random.Generator,
    ):
        self.lower_mm = tuple(float(o) for o in lower_mm)
        self.spacing_mm = float(spacing_mm)
        self.shape = tuple(
            int(np.ceil((u - o) / spacing_mm)) + 1 for o, u in zip(lower_mm, upper_mm, strict=True)
        )
        self._pose = pose
        self._deformation_mm = deformation_mm
        angle = math.radians(pose.rotation_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        self._cos, self._sin = cos, sin
        x, y, z = (
            ((o + spacing_mm * np.arange(n) - s) / pose.size).astype(np.float32)
            for o, n, s in zip(self.lower_mm, self.shape, pose.shift_mm, strict=True)
        )
        x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
        offsets = [
            np.clip(self.lumps(80.0, rng), -2.5, 2.5) * np.float32(deformation_mm) for _ in range(3)
        ]
        self._offsets = offsets
        self.x = offsets[0] + np.float32(cos) * x + np.float32(sin) * y
        self.y = offsets[1] + np.float32(cos) * y - np.float32(sin) * x
        self.z = offsets[2] + z
        # Smooth fields of unit variance, for shapes and textures.
        self.medium = [self.lumps(20.0, rng) for _ in range(2)]
        self.fine = [self.lumps(9.0, rng) for _ in range(2)]

    def lumps(self, scale_mm: float, rng: np.random.Generator) -> np.ndarray:
        """Returns smooth noise on the grid, see `lumps`."""
        return lumps(self.shape, (self.spacing_mm,) * 3, scale_mm, rng)

    def box(self, lower: Vector, upper: Vector) -> Box:
        """Returns a box with every voxel that can lie between the corners, in patient mm."""
        # Python numbers, because this is called a thousand times per patient and small arrays take
        # ten times as long.
        size, cos, sin = self._pose.size, self._cos, self._sin
        middle = [(float(a) + float(b)) / 2.0 for a, b in zip(lower, upper, strict=True)]
        half = [(float(b) - float(a)) / 2.0 * size for a, b in zip(lower, upper, strict=True)]
        half = [
            abs(cos) * half[0] + abs(sin) * half[1],
            abs(sin) * half[0] + abs(cos) * half[1],
            half[2],
        ]
        # The deformation is evaluated at the centre of the box; elsewhere in the box it differs by
        # at most the margin.
        centre = self._place_on_grid(middle)
        index = tuple(min(max(round(c), 0), n - 1) for c, n in zip(centre, self.shape, strict=True))
        centre = self._place_on_grid(
            [m - float(field[index]) for m, field in zip(middle, self._offsets, strict=True)]
        )
        margin = self.spacing_mm + min(5.0, 1.0 + 0.12 * max(half)) * self._deformation_mm
        first = [
            math.floor(c - (h + margin) / self.spacing_mm)
            for c, h in zip(centre, half, strict=True)
        ]
        last = [
            math.ceil(c + (h + margin) / self.spacing_mm) + 1
            for c, h in zip(centre, half, strict=True)
        ]
        x, y, z = (
            slice(max(0, min(f, n)), max(0, min(e, n)))
            for f, e, n in zip(first, last, self.shape, strict=True)
        )
        return x, y, z

    def _place_on_grid(self, point: Vector) -> list[float]:
        """Returns the voxel coordinates of a point in patient mm, without the deformation."""
        x, y, z = point
        turned = (self._cos * x - self._sin * y, self._sin * x + self._cos * y, z)
        return [
            (self._pose.size * t + s - o) / self.spacing_mm
            for t, s, o in zip(turned, self._pose.shift_mm, self.lower_mm, strict=True)
        ]

    def whole(self) -> Box:
        """Returns the box of the whole grid."""
        nx, ny, nz = self.shape
        return slice(0, nx), slice(0, ny), slice(0, nz)

    def at(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the patient coordinates x, y, z (mm, float32) of the voxels in `box`."""
        return self.x[box], self.y[box], self.z[box]


class Canvas:
    """The patient's HU on the grid of a `Space`, and the distance to the organs painted so far."""

    def __init__(self, space: Space, background_hu: float):
        self.space = space
        self.hu = np.full(space.shape, background_hu, np.float32)
        self.occupied = np.full(space.shape, 60.0, np.float32)

    def paint(
        self,
        box: Box,
        distance: np.ndarray,
        hu: float | np.ndarray,
        *,
        edge_mm: float | None = None,
        occupy: bool = True,
        gap_mm: float = 0.0,
        gap_hu: float = 0.0,
    ) -> None:
        """Blends `hu` (a number or an array on `box`) into the image where `distance` is negative.

        Args:
          edge_mm: width of the transition; by default the grid's spacing, which reproduces the
              partial volume of a voxel.
          occupy: whether later organs must keep out (see `free`).
          gap_mm: width of a rim painted first, e.g. the fat plane between two organs.
          gap_hu: HU of the rim.
        """
        edge = self.space.spacing_mm if edge_mm is None else edge_mm
        picture = self.hu[box]
        if gap_mm:
            picture += np.clip(0.5 - (distance - gap_mm) / edge, 0.0, 1.0) * (gap_hu - picture)
        picture += np.clip(0.5 - distance / edge, 0.0, 1.0) * (hu - picture)
        if occupy:
            np.minimum(self.occupied[box], distance, out=self.occupied[box])

    def free(self, box: Box, distance: np.ndarray, gap_mm: float = 0.0) -> np.ndarray:
        """Returns `distance` without the space that is already occupied and a gap around it."""
        return np.maximum(distance, gap_mm - self.occupied[box])


def ellipsoid(
    space: Space,
    centre: Vector,
    radii: Vector,
    *,
    turn_deg: float = 0.0,
    tilt_deg: float = 0.0,
    within: Box | None = None,
) -> tuple[Box, np.ndarray]:
    """Returns (box, distance) of an ellipsoid.

    Args:
      turn_deg: rotation about z, applied first.
      tilt_deg: rotation about x.
      within: box to fill instead of the ellipsoid's own.
    """
    longest = max(radii) if turn_deg or tilt_deg else np.asarray(radii)
    box = within or space.box(
        np.asarray(centre) - longest - REACH_MM / 2, np.asarray(centre) + longest + REACH_MM / 2
    )
    x, y, z = (w - np.float32(c) for w, c in zip(space.at(box), centre, strict=True))
    if turn_deg:
        cos, sin = (np.float32(f(np.deg2rad(turn_deg))) for f in (np.cos, np.sin))
        x, y = cos * x + sin * y, cos * y - sin * x
    if tilt_deg:
        cos, sin = (np.float32(f(np.deg2rad(tilt_deg))) for f in (np.cos, np.sin))
        y, z = cos * y + sin * z, cos * z - sin * y
    a, b, c = (np.float32(1.0 / r) for r in radii)
    x, y, z = (x * a) ** 2, (y * b) ** 2, (z * c) ** 2
    unit = np.sqrt(x + y + z)
    slope = np.sqrt(x * (a * a) + y * (b * b) + z * (c * c)) + np.float32(1e-6)
    return box, unit * (unit - 1) / slope


def spline(points: ArrayLike, samples: int) -> np.ndarray:
    """Returns [samples, k] points along a cubic spline through `points` [n, k].

    The first three columns are x, y, z; further ones, e.g. radii, are interpolated with them.
    """
    points = np.asarray(points, float)
    along = np.concatenate(
        [[0.0], np.cumsum(np.linalg.norm(np.diff(points[:, :3], axis=0), axis=1))]
    )
    return CubicSpline(along, points, bc_type="natural")(np.linspace(0.0, along[-1], samples))


def tube(
    space: Space,
    path: np.ndarray,
    *,
    stretch: Vector = (1.0, 1.0, 1.0),
    within: Box | None = None,
    reach_mm: float = REACH_MM,
) -> tuple[Box, np.ndarray]:
    """Returns (box, distance) of a tube of varying radius.

    Args:
      path: [n, 4] centre x, y, z and radius in mm, connected by straight cones.
      stretch: divides distances along x, y, z; (1, 0.7, 1) flattens the tube to 0.7 from front to
          back.
      within: box to fill instead of the tube's own.
      reach_mm: distances outside the tube are computed up to this value and constant beyond.
    """
    path = np.asarray(path, float)
    stretch = np.asarray(stretch, float)
    reach = (path[:, 3].max() + reach_mm) * np.maximum(stretch, 1.0)
    box = within or space.box(path[:, :3].min(0) - reach, path[:, :3].max(0) + reach)
    distance = np.full([s.stop - s.start for s in box], reach_mm, np.float32)
    for start, end in itertools.pairwise(path):
        reach = (max(start[3], end[3]) + reach_mm) * np.maximum(stretch, 1.0)
        around = space.box(np.minimum(start, end)[:3] - reach, np.maximum(start, end)[:3] + reach)
        part = overlap(around, box)
        if part is None:
            continue
        x, y, z = (
            (w - np.float32(c)) * np.float32(1 / s)
            for w, c, s in zip(space.at(part), start, stretch, strict=False)
        )
        ux, uy, uz = (np.float32(u) for u in (end - start)[:3] / stretch)
        squared: float | np.floating = ux * ux + uy * uy + uz * uz
        if squared < 1e-6:
            squared = 1e-6
        share = np.clip((x * ux + y * uy + z * uz) * np.float32(1.0 / squared), 0.0, 1.0)
        x, y, z = x - share * ux, y - share * uy, z - share * uz
        local = np.sqrt(x * x + y * y + z * z) - (
            np.float32(start[3]) + share * np.float32(end[3] - start[3])
        )
        view = distance[relative(part, box)]
        np.minimum(view, local, out=view)
    return box, distance


def smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Returns the distance to the union of two shapes, with the crease between them filled.

    Source: Quilez's polynomial smooth minimum, over about `blend_mm`.
    """
    near = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0.0)
    return np.minimum(a, b) - near * near * np.float32(0.25 / blend_mm)


def lumps(
    shape: Sequence[int], spacing_mm: Sequence[float], scale_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns smooth noise float32 of `shape` with zero mean and unit variance.

    Args:
      scale_mm: approximate width of the bumps.
    """
    steps = [scale_mm / 2.0 / spacing for spacing in spacing_mm]
    field = rng.standard_normal(
        [int(np.ceil((n - 1) / step)) + 4 for n, step in zip(shape, steps, strict=True)],
        dtype=np.float32,
    )
    for axis, (n, step) in enumerate(zip(shape, steps, strict=True)):
        field = np.moveaxis(
            np.tensordot(_bspline(n, step, field.shape[axis]), field, axes=(1, axis)), 0, axis
        )
    field -= field.mean()
    return np.ascontiguousarray(field / field.std())


def _bspline(n: int, step: float, knots: int) -> np.ndarray:
    """Returns weights float32 [n, knots] of cubic B-splines with knots `step` grid voxels apart."""
    offset = np.abs(np.arange(n)[:, None] / step + 1.0 - np.arange(knots)[None, :])
    near = 2.0 / 3.0 - offset**2 + offset**3 / 2.0
    far = np.clip(2.0 - offset, 0.0, None) ** 3 / 6.0
    return np.where(offset < 1.0, near, far).astype(np.float32)
