"""The trunk around the organs: table, skin, fat, muscle, lungs, spine and ribs."""

from __future__ import annotations

import dataclasses

import numpy as np

from preprocessing.phantom.hospital import Patient
from preprocessing.phantom.space import Canvas, ellipsoid, spline, tube

_FRONT_MM = 48.0  # distance of the trunk's centre in front of the vertebral body's centre
_VERTEBRA_PITCH_MM = 35.0  # one vertebral body and its disc


@dataclasses.dataclass(frozen=True)
class Torso:
    """Distances float32 [x, y, z] to the surfaces that bound the organs."""

    body: np.ndarray  # skin
    cavity: np.ndarray  # inside of the muscle wall
    dome: np.ndarray  # abdomen below the diaphragm


def paint_torso(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> Torso:
    """Paints the trunk on an empty canvas; returns the surfaces that bound the organs."""
    space, hu = canvas.space, patient.hu
    whole = space.whole()
    x, z = space.x, space.z
    y = space.y - np.float32(_FRONT_MM)
    # the chest is wider than the waist
    waist = 1.0 + np.float32(0.045) * np.tanh((z - 10.0) / 60.0)
    side = x / (patient.width_mm * waist)
    front = y / (patient.depth_mm * waist)
    # Between an ellipse (last factor 0) and a rectangle (1): like a superellipse of exponent 2.4,
    # without the cost of powers.
    square, half = (side * front) ** 2, (side * side + front * front) * np.float32(0.5)
    unit = np.sqrt(
        half + np.sqrt(np.maximum(half * half - square * np.float32(0.28), 0.0))
    ) + np.float32(1e-3)
    length = np.sqrt(x * x + y * y)
    body = length * (1.0 - 1.0 / unit)
    # the furrow over the spinous processes
    groove = np.exp(-((x / 20.0) ** 2)) * np.clip(-front, 0.0, 1.0)
    body += 5.0 * groove
    flank = np.clip(np.abs(side) / unit, 0.0, 1.0)
    _paint_table(canvas, patient, body, rng)
    canvas.paint(whole, body, hu["fat"] + 4.0 * space.medium[0], occupy=False)
    skin = np.abs(body + 1.2) - 1.2
    canvas.paint(whole, skin, hu["skin"], occupy=False)

    fat = patient.skin_fat_mm * (
        1.0 - 0.45 * flank**2 - 0.25 * np.clip(-front, 0, 1) + 0.04 * space.medium[1]
    )
    wall = body + fat + 3.0
    muscle = hu["muscle"] + 7.0 * space.fine[0]
    canvas.paint(whole, wall, muscle, occupy=False)
    depth = wall + (9.0 + 5.0 * flank**3)
    # fat between the muscle layers of the flank
    planes = np.abs(wall + 4.0 + 0.5 * space.medium[0]) - 0.5
    canvas.paint(whole, np.maximum(planes, 40.0 * (0.6 - flank)), -30.0, edge_mm=3.0, occupy=False)
    box = space.box((-8, _FRONT_MM, -300), (8, 300, 300))
    # the linea alba between the recti
    alba = np.maximum(np.abs(x[box]) - 2.5, np.maximum(wall, -depth)[box])
    canvas.paint(box, alba, -60.0, occupy=False)
    canvas.paint(
        whole, depth, hu["fat"] + 6.0 * space.fine[1] + 4.0 * space.medium[1], occupy=False
    )

    dome_mm = (patient.width_mm + 6.0, patient.depth_mm + 18.0, 160.0 + rng.normal(0, 6))
    _, dome = ellipsoid(space, (3.0, 50.0, -40.0), dome_mm, within=whole)
    box = space.box((-300, -200, 0), (300, 300, 300))
    lung = np.maximum(
        np.maximum(depth[box] + 1.5, 2.0 - dome[box]),
        np.float32(34.0) - np.hypot(x[box], space.y[box] - 12.0),
    )
    canvas.paint(
        box,
        lung,
        -840.0 + 25.0 * space.fine[0][box] + 12.0 * np.clip(40.0 - z[box], 0, 20),
        occupy=False,
    )
    _paint_muscles(canvas, patient, muscle, rng)
    _paint_spine(canvas, patient, rng)
    _paint_ribs(canvas, patient, rng)
    return Torso(body=body, cavity=depth, dome=dome)


def _paint_table(
    canvas: Canvas, patient: Patient, body: np.ndarray, rng: np.random.Generator
) -> None:
    """Paints the table: a curved carbon-fibre shell around foam, under the patient's back.

    It belongs to the scanner, so pose and deformation do not move it.
    """
    space = canvas.space
    back = int(np.flatnonzero((body < 0).any(axis=(0, 2)))[0])  # the patient's rearmost row
    below = (slice(None), slice(0, min(space.shape[1], back + 20)), slice(None))
    sag = (22.0 if patient.site.name == "C1" else 34.0) + rng.normal(0, 2)
    x, y = (
        space.lower_mm[a] + space.spacing_mm * np.arange(space.shape[a], dtype=np.float32)
        for a in (0, 1)
    )
    top = float(y[back]) - 3.0
    surface = (top + sag * (x / 170.0) ** 2)[:, None, None] - y[None, below[1], None]
    surface = np.broadcast_to(surface.astype(np.float32), canvas.hu[below].shape)
    for depth, thickness, level in ((0.0, 1.5, 20.0), (9.0, 6.5, -955.0)):
        canvas.paint(below, np.abs(surface - depth) - thickness, level, occupy=False)


def _paint_muscles(
    canvas: Canvas, patient: Patient, muscle: np.ndarray, rng: np.random.Generator
) -> None:
    space, fat = canvas.space, patient.hu["fat"]
    for side in (1.0, -1.0):
        bulk = rng.normal(1.0, 0.06)
        columns = [  # centre (x, y) at the lower and the upper end, then radii (x, y) at both
            ((33, -41), (30, -38), (31 * bulk, 17 * bulk), (25, 15)),  # erector spinae
            ((60, -24), (54, -24), (17 * bulk, 8), (8, 5)),  # quadratus lumborum
            ((38, 4), (25, -6), (19 * bulk, 17 * bulk), (5, 5)),  # psoas
        ]
        for low, high, thick, thin in columns:
            box = space.box(
                *(
                    ((4, -64, -200), (82, 28, 200))
                    if side > 0
                    else ((-82, -64, -200), (-4, 28, 200))
                )
            )
            x, y, z = space.at(box)
            share = np.clip((z + 90.0) / 170.0, 0.0, 1.0)
            cx, cy, rx, ry = (
                np.float32(a) + share * np.float32(b - a)
                for a, b in zip((*low, *thick), (*high, *thin), strict=True)
            )
            unit = np.sqrt(((side * x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
            distance = (unit - 1.0) * np.minimum(rx, ry)
            canvas.paint(box, distance, muscle[box], gap_mm=1.5, gap_hu=fat)
    for side, reach in ((1.0, 26.0), (-1.0, 20.0)):  # the diaphragm's crura beside the aorta
        path = [
            [side * 9, 14, -40, 3.5],
            [side * 15, 24, 0, 4],
            [side * 18, 34, 40, 3.2],
            [side * reach, 40, 80, 2.5],
        ]
        canvas.paint(
            *tube(space, spline(path, 8), reach_mm=4.0), patient.hu["muscle"], occupy=False
        )


def _paint_spine(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> None:
    space, hu = canvas.space, patient.hu
    box = space.box((-75, -75, -260), (75, 40, 260))
    x, y, z = space.at(box)
    phase = (z + rng.uniform(0, _VERTEBRA_PITCH_MM)) / _VERTEBRA_PITCH_MM
    # 0 at the centre of a vertebral body, half a pitch at the centre of a disc
    level = (phase - np.round(phase)) * _VERTEBRA_PITCH_MM
    waist = 1.0 - 0.07 * np.cos(level * np.float32(2 * np.pi / _VERTEBRA_PITCH_MM))
    column = np.sqrt(
        (x / (22.5 * waist)) ** 2 + ((y + np.clip(-y - 12, 0, 6)) / (17.5 * waist)) ** 2
    )
    column = (column - 1.0) * 18.0
    end = np.abs(level) - 13.0
    canvas.paint(box, np.maximum(column + 0.5, -end), hu["disc"], occupy=True)
    body = np.maximum(column, end)
    spongy = hu["marrow"] + 22.0 * space.fine[1][box]
    canvas.paint(box, body, hu["cortical"], edge_mm=2.5)
    canvas.paint(box, body + 2.2, spongy, edge_mm=2.5)

    arch = np.abs(level + 4.0)
    canal = np.sqrt((x / 11.5) ** 2 + ((y + 26.0) / 9.0) ** 2) - 1.0
    ring = np.maximum(np.maximum(canal * 9.0 - 5.0, -canal * 9.0), arch - 11.0)
    process = np.maximum(
        np.abs(x) - 3.2, np.maximum(np.abs(y + 46.0) - 14.0, np.abs(level + 7.0) - 8.0)
    )
    wings = np.maximum(
        np.abs(y + 22.0 + 0.12 * np.abs(x)) - 4.0,
        np.maximum(np.abs(x) - 42.0, np.abs(level - 3.0) - 5.0),
    )
    joints = np.sqrt((np.abs(x) - 16.0) ** 2 + (y + 33.0) ** 2 + (0.45 * (level - 14.0)) ** 2) - 7.5
    wings = np.maximum(wings, 14.0 - np.abs(x))
    back = np.minimum(np.minimum(ring, process), np.minimum(wings, joints))
    canvas.paint(
        box,
        np.minimum(back, canal * 9.0),
        hu["fat"] + 60.0,
        gap_mm=1.5,
        gap_hu=hu["muscle"],
        occupy=False,
    )
    canvas.paint(box, back, hu["cortical"] * 0.85, edge_mm=3.0)
    canvas.paint(box, back + 2.6, hu["marrow"] + 60.0, edge_mm=3.0, occupy=False)
    canvas.paint(box, canal * 9.0 + 1.5, 22.0)
    canvas.paint(
        box, (np.sqrt((x / 6.0) ** 2 + ((y + 26.0) / 4.5) ** 2) - 1.0) * 4.5, 42.0, occupy=False
    )


def _paint_ribs(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> None:
    space, hu = canvas.space, patient.hu
    inset = patient.skin_fat_mm * 0.62 + 8.0
    wide, deep = patient.width_mm - inset, patient.depth_mm - 0.8 * inset - 4.0
    first = rng.uniform(-8.0, 8.0)
    for side in (1.0, -1.0):
        for number in range(7):
            # height at the spine, from where the rib descends towards the front
            origin = first + 118.0 - 27.0 * number
            reach = (2.55, 2.5, 2.45, 2.4, 2.2, 1.6, 0.95)[number]
            angle = np.linspace(0.18, reach, 16)
            path = np.stack(
                [
                    side * wide * np.sin(angle) ** 0.86,
                    _FRONT_MM - deep * np.cos(angle) * np.where(np.cos(angle) > 0, 0.82, 0.97),
                    origin - 34.0 * np.minimum(angle, 2.1) + 18.0 * np.clip(angle - 2.1, 0, 1),
                    np.full_like(angle, 5.4),
                ],
                axis=1,
            )
            if path[:, 2].min() > space.lower_mm[2] + space.spacing_mm * space.shape[2] + 20:
                continue
            box, distance = tube(space, path, stretch=(0.8, 0.8, 1.2), reach_mm=4.0)
            canvas.paint(box, distance, hu["cortical"] * 0.95, occupy=False)
            canvas.paint(box, distance + 2.3, hu["marrow"] * 0.8, occupy=False)
