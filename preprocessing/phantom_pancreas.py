"""The pancreas and its tumour: the two shapes that are labelled."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from preprocessing.phantom_site import Patient
from preprocessing.phantom_space import Box, Canvas, ellipsoid, spline, tube
from preprocessing.phantom_viscera import jittered


@dataclasses.dataclass(frozen=True)
class Target:
    """What the labels are made of: distances in mm float32 on `box`; `tumour` is None in a healthy patient."""

    box: Box
    pancreas: np.ndarray
    tumour: np.ndarray | None


def paint_pancreas(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> Target:
    """Paints pancreas and tumour into the room the other organs leave. Returns the shapes the labels are made of.

    The pancreas is a tube of varying radius along a spline: uncinate process and head inside the duodenum's C, neck in front of the
    superior mesenteric vein, body over the aorta, tail rising to the splenic hilum.
    """
    space, hu = canvas.space, patient.hu
    rise, press = patient.tail_rise_mm, 5.0 * max(0.0, patient.stomach_size - 0.7)
    path = jittered(
        [
            [22, 43, -52, 9.0],
            [33, 54, -38, 16.0],
            [33, 60, -18, 16.5],
            [12, 67 - press, -4, 11.0],
            [-14, 67 - press, 0.20 * rise, 11.5],
            [-42, 56 - press, 0.50 * rise, 12.0],
            [-68, 36 - press, 0.80 * rise, 12.5],
            [-90, 17, rise, 9.5],
        ],
        2.2,
        rng,
    )
    centreline = spline(path, 40)
    centreline[:, 3] = np.clip(centreline[:, 3], 7.5, 19.0)
    tumour_at = _draw_tumour_place(rng) if patient.site.tumour else None
    if tumour_at is not None:  # what lies upstream of a tumour withers
        centreline[tumour_at:, 3] *= rng.uniform(0.84, 0.96)
    flat = (1.0, 0.92 - 0.10 * max(0.0, patient.stomach_size - 0.7), 1.05)
    box, distance = tube(space, centreline, stretch=flat)
    distance = distance + patient.lobulation_mm * (0.75 * space.fine[0][box] + 0.45 * space.medium[1][box])
    pancreas = _of_volume(np.maximum(distance, -40.0), canvas.occupied[box] - 0.8, patient.pancreas_ml, space.spacing_mm, limit_mm=3.5)
    clefts = np.clip(space.fine[1][box] - 0.9, 0.0, 1.0) * min(1.0, patient.fatty_share * 5.0)
    tissue = hu["pancreas"] + 4.0 * space.fine[1][box] - 70.0 * clefts
    canvas.paint(box, pancreas, tissue, gap_mm=1.0, gap_hu=hu["fat"], occupy=False)
    if tumour_at is None:
        np.minimum(canvas.occupied[box], pancreas, out=canvas.occupied[box])
        return Target(box, pancreas, None)
    tumour = _paint_tumour(canvas, patient, box, pancreas, centreline, tumour_at, rng)
    np.minimum(canvas.occupied[box], np.minimum(pancreas, tumour), out=canvas.occupied[box])
    return Target(box, pancreas, tumour)


def _draw_tumour_place(rng: np.random.Generator) -> int:
    """Returns an index into the 40 samples of the centreline: six of ten tumours sit in the head, as in the clinic."""
    first, last = ((4, 15), (18, 28), (29, 36))[rng.choice(3, p=(0.6, 0.22, 0.18))]
    return int(rng.integers(first, last))


def _paint_tumour(
    canvas: Canvas, patient: Patient, box: Box, pancreas: np.ndarray, centreline: np.ndarray, at: int, rng: np.random.Generator
) -> np.ndarray:
    space, hu = canvas.space, patient.hu
    diameter = float(np.clip(rng.normal(37.0, 5.0), 16.0, 50.0))
    direction = rng.normal(0, 1, 3) * (1.0, 1.0, 0.7)
    offset = direction / np.linalg.norm(direction) * centreline[at, 3] * rng.uniform(0.1, 1.0)
    radii = np.array([1.0, 1.0, 1.0]) * diameter / 2 * rng.uniform(0.82, 1.2, 3)
    _, shape = ellipsoid(space, centreline[at, :3] + offset, radii, turn_deg=rng.uniform(0, 180), within=box)
    shape = shape + 0.10 * diameter * 0.5 * space.medium[0][box] + 0.06 * diameter * 0.5 * space.fine[1][box]
    tumour = _of_volume(shape, canvas.occupied[box], np.pi / 6 * diameter**3 / 1000.0, space.spacing_mm, limit_mm=8.0)
    if at < 30:  # the duct behind the tumour widens
        width = rng.uniform(1.4, 3.0)
        duct = centreline[at:].copy()
        duct[:, 3] = np.linspace(width, 0.8, len(duct))
        _, distance = tube(space, duct, within=box)
        canvas.paint(box, np.maximum(distance, pancreas + 2.0), 14.0, occupy=False)
    level = hu["pancreas"] - hu["tumour_below_pancreas"]
    texture = level + 6.0 * space.fine[0][box] + 4.0 * space.medium[1][box]
    if rng.random() < 0.3:  # necrosis
        texture = texture - 12.0 * np.clip(-(tumour + 5.0) / 4.0, 0.0, 1.0)
    canvas.paint(box, tumour, texture, edge_mm=3.5, occupy=False)
    return tumour


def _of_volume(distance: np.ndarray, room: np.ndarray, volume_ml: float, spacing_mm: float, *, limit_mm: float) -> np.ndarray:
    """Returns the shape grown or shrunk by at most `limit_mm` so that its part inside `room` (> 0) has `volume_ml`; one piece."""
    inside = np.sort(distance[room > 0], axis=None)
    count = min(int(volume_ml * 1000.0 / spacing_mm**3), len(inside) - 1)
    growth = float(np.clip(inside[count], -limit_mm, limit_mm))
    shape = np.maximum(distance - np.float32(growth), -room)
    parts, count = ndimage.label(shape < 0)
    if count > 1:  # what its neighbours have cut off goes
        largest = np.bincount(parts.ravel())[1:].argmax() + 1
        shape = np.where((parts > 0) & (parts != largest), np.float32(spacing_mm), shape)
    return shape
