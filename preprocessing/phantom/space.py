"""Implicit shapes of the synthetic patient: where a voxel lies in the body, how far it is from a
shape, and painting HU there.

Distances are signed, in mm, negative inside. They are exact near a surface and only roughly right
far from it, which is all that painting with a soft edge and thresholding need. Coordinates are RAS+
mm of the *patient* (x to the patient's right, y to the front, z to the head; the origin is the
centre of the vertebral body at the level of the pancreas), not of the scanner: `Space` holds the
way between them, with a smooth random deformation, so that no organ of any patient is a textbook
ellipsoid.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from scipy.interpolate import CubicSpline

Box = tuple[slice, slice, slice]
# how far outside a tube its distance is computed by default; farther away it stays at this value
REACH_MM = 12.0


@dataclasses.dataclass(frozen=True)
class Pose:
    """How the patient lies on the table: rotation about the long axis in degrees, size, shift in
    mm.
    """

    rotation_deg: float = 0.0
    size: float = 1.0
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Space:
    """A coarse isotropic grid over the field of view and, for each of its voxels, the place in the
    patient.

    Args:
      lower_mm, upper_mm: scanner coordinates of the first and (at least) the last voxel centre.
      spacing_mm: of the grid, the same along every axis.
      pose: how the patient lies.
      deformation_mm: standard deviation of the smooth deformation.
      rng: decides the deformation and the noise fields.
    """

    def __init__(
        self,
        lower_mm,
        upper_mm,
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
        cos, sin = (
            math.cos(math.radians(pose.rotation_deg)),
            math.sin(math.radians(pose.rotation_deg)),
        )
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
        self.medium = [
            self.lumps(20.0, rng) for _ in range(2)
        ]  # unit variance; shapes and textures share these fields
        self.fine = [self.lumps(9.0, rng) for _ in range(2)]

    def lumps(self, scale_mm: float, rng: np.random.Generator) -> np.ndarray:
        """Returns smooth noise float32 [x, y, z] of zero mean and unit variance, whose bumps are
        about `scale_mm` wide.
        """
        return lumps(self.shape, (self.spacing_mm,) * 3, scale_mm, rng)

    def box(self, lower, upper) -> Box:
        """Returns the slices that hold every voxel whose place in the patient may lie between the
        corners `lower` and `upper`.
        """
        # Plain numbers: this is called a thousand times a patient, and small arrays cost ten times
        # as much.
        size, cos, sin = self._pose.size, self._cos, self._sin
        middle = [(float(a) + float(b)) / 2.0 for a, b in zip(lower, upper, strict=True)]
        half = [(float(b) - float(a)) / 2.0 * size for a, b in zip(lower, upper, strict=True)]
        half = [
            abs(cos) * half[0] + abs(sin) * half[1],
            abs(sin) * half[0] + abs(cos) * half[1],
            half[2],
        ]
        # The deformation is followed in the middle of the box; away from it, it differs by no more
        # than the margin.
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
        return tuple(
            slice(max(0, min(f, n)), max(0, min(e, n)))
            for f, e, n in zip(first, last, self.shape, strict=True)
        )

    def _place_on_grid(self, point) -> list[float]:
        """Patient mm -> voxel coordinates of the grid, without the deformation."""
        x, y, z = point
        turned = (self._cos * x - self._sin * y, self._sin * x + self._cos * y, z)
        return [
            (self._pose.size * t + s - o) / self.spacing_mm
            for t, s, o in zip(turned, self._pose.shift_mm, self.lower_mm, strict=True)
        ]

    def whole(self) -> Box:
        return tuple(slice(0, n) for n in self.shape)

    def at(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the places x, y, z in the patient (mm, float32) of the voxels of `box`."""
        return self.x[box], self.y[box], self.z[box]


class Canvas:
    """HU of the patient on the grid of a `Space`, and the distance to whatever is already there."""

    def __init__(self, space: Space, background_hu: float):
        self.space = space
        self.hu = np.full(space.shape, background_hu, np.float32)
        self.occupied = np.full(space.shape, 60.0, np.float32)

    def paint(
        self,
        box: Box,
        distance: np.ndarray,
        hu,
        *,
        edge_mm: float | None = None,
        occupy: bool = True,
        gap_mm: float = 0.0,
        gap_hu=None,
    ):
        """Mixes `hu` (number or array of the box) into the picture where `distance` is negative.

        Args:
          edge_mm: width over which the mix goes from none to all; the grid's spacing by default,
              which is the partial volume of a voxel.
          occupy: whether later organs must keep out (see `free`).
          gap_mm, gap_hu: a rim painted first, e.g. the fat plane between two organs.
        """
        edge = self.space.spacing_mm if edge_mm is None else edge_mm
        picture = self.hu[box]
        if gap_mm:
            picture += np.clip(0.5 - (distance - gap_mm) / edge, 0.0, 1.0) * (gap_hu - picture)
        picture += np.clip(0.5 - distance / edge, 0.0, 1.0) * (hu - picture)
        if occupy:
            np.minimum(self.occupied[box], distance, out=self.occupied[box])

    def free(self, box: Box, distance: np.ndarray, gap_mm: float = 0.0) -> np.ndarray:
        """Returns `distance` with everything that is already occupied, and a gap around it, taken
        away.
        """
        return np.maximum(distance, gap_mm - self.occupied[box])


def ellipsoid(
    space: Space,
    centre,
    radii,
    *,
    turn_deg: float = 0.0,
    tilt_deg: float = 0.0,
    within: Box | None = None,
) -> tuple[Box, np.ndarray]:
    """Returns (box, distance) of an ellipsoid turned by `turn_deg` about z and then tilted by
    `tilt_deg` about x.
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


def spline(points, samples: int) -> np.ndarray:
    """Returns [samples, k] along a cubic spline through `points` [n, k]; columns beyond the third
    (radii) ride along.
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
    stretch=(1.0, 1.0, 1.0),
    within: Box | None = None,
    reach_mm: float = REACH_MM,
) -> tuple[Box, np.ndarray]:
    """Returns (box, distance) of a tube of varying radius.

    Args:
      path: [n, 4] centre x, y, z and radius in mm; straight cones between.
      stretch: divides the distance along x, y, z: (1, 0.7, 1) is a tube flattened to 0.7 from front
          to back.
      within: box to fill instead of the tube's own.
      reach_mm: how far outside the distance is needed; it stays at this value farther away.
    """
    path = np.asarray(path, float)
    stretch = np.asarray(stretch, float)
    reach = (path[:, 3].max() + reach_mm) * np.maximum(stretch, 1.0)
    box = within or space.box(path[:, :3].min(0) - reach, path[:, :3].max(0) + reach)
    distance = np.full([s.stop - s.start for s in box], reach_mm, np.float32)
    for start, end in itertools.pairwise(path):
        reach = (max(start[3], end[3]) + reach_mm) * np.maximum(stretch, 1.0)
        part = space.box(np.minimum(start, end)[:3] - reach, np.maximum(start, end)[:3] + reach)
        part = tuple(
            slice(max(p.start, b.start), min(p.stop, b.stop))
            for p, b in zip(part, box, strict=True)
        )
        if any(p.stop <= p.start for p in part):
            continue
        x, y, z = (
            (w - np.float32(c)) * np.float32(1 / s)
            for w, c, s in zip(space.at(part), start, stretch, strict=False)
        )
        ux, uy, uz = (np.float32(u) for u in (end - start)[:3] / stretch)
        share = np.clip(
            (x * ux + y * uy + z * uz) * np.float32(1.0 / max(ux * ux + uy * uy + uz * uz, 1e-6)),
            0.0,
            1.0,
        )
        x, y, z = x - share * ux, y - share * uy, z - share * uz
        local = np.sqrt(x * x + y * y + z * z) - (
            np.float32(start[3]) + share * np.float32(end[3] - start[3])
        )
        view = distance[
            tuple(
                slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box, strict=True)
            )
        ]
        np.minimum(view, local, out=view)
    return box, distance


def smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Returns the distance to either shape, with the crease between them filled over about
    `blend_mm` (Quilez's polynomial minimum).
    """
    overlap = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0.0)
    return np.minimum(a, b) - overlap * overlap * np.float32(0.25 / blend_mm)


def lumps(shape, spacing_mm, scale_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Returns smooth noise float32 of `shape`, as `Space.lumps` does, on a grid of any spacing
    along each axis.
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
    """Weights float32 [n, knots] of cubic B-splines whose knots lie `step` grid voxels apart."""
    offset = np.abs(np.arange(n)[:, None] / step + 1.0 - np.arange(knots)[None, :])
    near = 2.0 / 3.0 - offset**2 + offset**3 / 2.0
    far = np.clip(2.0 - offset, 0.0, None) ** 3 / 6.0
    return np.where(offset < 1.0, near, far).astype(np.float32)
