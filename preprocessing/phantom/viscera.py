"""The organs around the pancreas: vessels, kidneys, liver, spleen, stomach and bowel."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from preprocessing.phantom.hospital import Patient
from preprocessing.phantom.space import (
    Box,
    Canvas,
    ellipsoid,
    overlap,
    relative,
    smooth_union,
    spline,
    tube,
)
from preprocessing.phantom.torso import Torso

_GAS_HU = -960.0


def jittered(
    points: Sequence[Sequence[float]], spread_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns `points` [n, 4] (x, y, z, radius), moved and with radii scaled at random."""
    moved = np.array(points, float)
    moved[:, :3] += rng.normal(0.0, spread_mm, (len(moved), 3))
    moved[:, 3] *= rng.normal(1.0, 0.05, len(moved)).clip(0.88, 1.12)
    return moved


def paint_great_vessels(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> None:
    """Paints aorta, vena cava and their branches.

    The splenic, mesenteric and portal veins run where the pancreas will later lie on them.
    """
    space, hu = canvas.space, patient.hu
    aorta = spline(
        jittered(
            [[-6, 31, -110, 8.5], [-9, 31, -40, 9.5], [-11, 30, 20, 10.5], [-13, 27, 110, 11.5]],
            1.5,
            rng,
        ),
        12,
    )
    box, distance = tube(space, aorta, reach_mm=6.0)
    canvas.paint(box, distance, hu["aorta"], gap_mm=1.5, gap_hu=hu["fat"])
    if patient.calcified:
        plaque = np.maximum(np.abs(distance + 0.5) - 1.1, 4.0 * (1.1 - space.fine[0][box]))
        canvas.paint(box, plaque, 650.0, occupy=False)
    cava = spline(
        jittered(
            [[21, 27, -110, 10], [21, 29, -40, 10.5], [22, 32, 10, 11], [27, 40, 100, 12]], 1.5, rng
        ),
        12,
    )
    box, distance = tube(space, cava, stretch=(1.12, 0.8, 1), reach_mm=6.0)
    canvas.paint(box, distance, hu["cava"] + 8 * space.medium[0][box], gap_mm=1.0, gap_hu=hu["fat"])
    arteries: list[list[list[float]]] = [
        [
            [-11, 38, 4, 4.5],
            [-8, 47, -6, 4.2],
            [-5, 48, -40, 3.8],
            [-4, 52, -100, 3.2],
        ],  # superior mesenteric
        [
            [-11, 38, 17, 4.5],
            [-8, 47, 20, 4.0],
            [6, 50, 24, 3.0],
            [26, 52, 24, 2.8],
        ],  # coeliac trunk to the hepatic artery
        [[-8, 47, 20, 3.2], [-30, 45, 30, 2.8], [-55, 33, 34, 2.8], [-84, 12, 42, 2.6]],  # splenic
        [[-3, 28, -8, 3], [25, 16, -12, 2.8], [46, 4, -22, 2.6]],  # renal
        [[-16, 28, -4, 3], [-30, 16, -8, 2.8], [-46, 4, -16, 2.6]],
    ]
    veins: list[list[list[float]]] = [
        [[12, 52, -110, 5.5], [12, 52, -45, 6.2], [11, 52, -4, 6.8]],  # superior mesenteric
        [[11, 52, -4, 7.0], [22, 52, 14, 7.2], [40, 54, 32, 6.8], [58, 56, 42, 5.5]],  # portal
        [
            [21, 29, -16, 4.5],
            [0, 42, -16, 4.2],
            [-22, 32, -14, 4.5],
            [-46, 8, -14, 4.5],
        ],  # left renal, in front of the aorta
        [[24, 28, -18, 4.5], [46, 8, -22, 4.5]],
    ]
    for paths, level in ((arteries, hu["aorta"]), (veins, hu["portal"])):
        for path in paths:
            canvas.paint(*tube(space, spline(jittered(path, 0.8, rng), 9), reach_mm=6.0), level)


def paint_kidneys(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> None:
    """Paints the kidneys, with simple cysts in some patients, and the adrenal glands."""
    space, hu = canvas.space, patient.hu
    for side, height in ((1.0, -30.0), (-1.0, -17.0)):
        centre = np.array([side * 68.0, 0.0, height]) + rng.normal(0, 4, 3)
        radii = np.array([27.0, 29.0, 54.0]) * rng.normal(1.0, 0.05)
        box, outer = ellipsoid(space, centre, radii, turn_deg=side * 35.0, tilt_deg=-8.0)
        turned = functools.partial(ellipsoid, space, turn_deg=side * 35.0, within=box)
        _, hilum = turned(centre + np.array([-side * 21, 13, 0]), (19, 15, 21))
        kidney = np.maximum(outer + 0.8 * space.medium[1][box], -hilum)
        _, sinus = turned(centre + np.array([-side * 5, 4, 0]), (10, 9, 29))
        canvas.paint(box, outer, hu["fat"], gap_mm=4.0, gap_hu=hu["fat"], occupy=False)
        canvas.paint(box, kidney, hu["cortex"])
        # Other organs keep out of the perirenal fat.
        np.minimum(canvas.occupied[box], outer - 3.5, out=canvas.occupied[box])
        pyramids = np.maximum(outer + 7.5, 3.0 * (space.fine[0][box] - 0.35))
        canvas.paint(
            box, np.maximum(pyramids, -(sinus - 1.0)), hu["medulla"], edge_mm=4.0, occupy=False
        )
        canvas.paint(box, sinus, hu["fat"] + 20.0, edge_mm=4.0, occupy=False)
        _, pelvis = ellipsoid(space, centre + np.array([-side * 9, 6, -4]), (7, 5, 11), within=box)
        canvas.paint(box, pelvis, 12.0, edge_mm=3.0, occupy=False)
        if rng.random() < 0.35:  # a simple cyst, as dark as fluid
            reach = rng.uniform(5.0, 13.0)
            place = centre + np.array([side * 22.0, rng.normal(0, 10), rng.normal(0, 28)])
            canvas.paint(*ellipsoid(space, place, (reach, reach, reach)), 9.0)
        gland = [
            [side * 34, 18, height + 62, 2.6],
            [side * 40, 8, height + 54, 2.6],
            [side * 50, -4, height + 50, 2.2],
        ]
        limb = [
            [side * 34, 18, height + 62, 2.6],
            [side * 35, 6, height + 54, 2.4],
            [side * 38, -8, height + 50, 2.0],
        ]
        for path in (gland, limb):
            canvas.paint(
                *tube(space, spline(path, 6), stretch=(1, 1, 2), reach_mm=4.0), hu["muscle"] + 22.0
            )


def paint_liver_and_spleen(
    canvas: Canvas, patient: Patient, torso: Torso, rng: np.random.Generator
) -> None:
    """Paints the liver, with vessels and in some patients cysts, and the spleen."""
    space, hu = canvas.space, patient.hu
    grow = rng.normal(1.0, 0.05)
    shift = rng.normal(0, 3, 3)
    box = space.box((-95, -45, -120), (170, 175, 140))
    _, right = ellipsoid(
        space,
        np.array([93, 42, 22]) + shift,
        np.array([60, 82, 92]) * grow,
        turn_deg=10,
        within=box,
    )
    _, middle = ellipsoid(
        space, np.array([48, 76, 66]) + shift, np.array([76, 76, 56]) * grow, within=box
    )
    _, left = ellipsoid(
        space,
        np.array([-6, 112, 62]) + shift,
        np.array([78, 42, 50]) * grow,
        turn_deg=-8,
        within=box,
    )
    liver = smooth_union(smooth_union(right, middle, 22.0), left, 18.0) + 1.2 * space.medium[0][box]
    # the fissure of the falciform ligament
    fissure = np.maximum(
        np.abs(space.x[box] - 10 - 0.15 * (space.y[box] - 90)) - 0.6, 104.0 - space.y[box]
    )
    liver = np.maximum(liver, 0.8 - np.maximum(fissure, space.z[box] - 55))
    liver = np.maximum(np.maximum(liver, torso.cavity[box] + 0.8), torso.dome[box] + 1.5)
    liver = canvas.free(box, liver, -0.8)  # no fat between the liver and the organs it touches
    canvas.paint(box, liver, hu["liver"] + 3.0 * space.fine[0][box])
    _paint_liver_vessels(canvas, box, liver, hu["portal"], rng)
    for _ in range(rng.poisson(0.6)):
        reach = rng.uniform(4, 9)
        spot, cyst = ellipsoid(
            space,
            (rng.uniform(60, 120), rng.uniform(20, 100), rng.uniform(0, 70)),
            (reach, reach, reach),
        )
        canvas.paint(
            spot, np.maximum(cyst, liver_within(liver, box, spot) + 2.0), 10.0, occupy=False
        )

    box = space.box((-175, -70, -70), (-50, 90, 120))
    centre = np.array([-110, -6, 38]) + rng.normal(0, 4, 3)
    _, spleen = ellipsoid(
        space,
        centre,
        np.array([40, 62, 60]) * rng.normal(1.0, 0.07),
        turn_deg=-24,
        tilt_deg=14,
        within=box,
    )
    _, hilum = ellipsoid(
        space, centre + np.array([44, 24, 2]), (30, 42, 64), turn_deg=-24, within=box
    )
    spleen = np.maximum(
        np.maximum(spleen + 1.0 * space.medium[1][box], -hilum),
        np.maximum(torso.cavity[box] + 1.2, torso.dome[box] + 1.8),
    )
    canvas.paint(box, canvas.free(box, spleen, 0.5), hu["spleen"] + 2.5 * space.fine[1][box])


def liver_within(liver: np.ndarray, box: Box, spot: Box) -> np.ndarray:
    """Returns the distance to the liver on `spot`; `liver` has it on `box`, outside it is 60 mm."""
    result = np.full([s.stop - s.start for s in spot], 60.0, np.float32)
    inner = overlap(spot, box)
    if inner is not None:
        result[relative(inner, spot)] = liver[relative(inner, box)]
    return result


def _paint_liver_vessels(
    canvas: Canvas, box: Box, liver: np.ndarray, level: float, rng: np.random.Generator
) -> None:
    trees: list[
        list[list[float]]
    ] = [  # portal branches from the hilum, and hepatic veins towards the vena cava
        [[50, 58, 40, 6.0], [72, 60, 40, 5.0], [98, 52, 36, 3.6], [122, 40, 30, 2.2]],
        [[72, 60, 40, 4.4], [88, 80, 22, 3.4], [104, 92, 4, 2.2]],
        [[72, 60, 40, 4.2], [90, 40, 10, 3.2], [100, 30, -20, 2.0]],
        [[50, 58, 42, 4.6], [30, 90, 54, 4.0], [4, 108, 58, 3.0], [-28, 112, 58, 2.0]],
        [[98, 52, 36, 3.0], [108, 66, 56, 2.4], [116, 72, 66, 1.8]],
        [[30, 44, 88, 5.0], [62, 48, 74, 4.4], [96, 46, 62, 3.4], [120, 40, 52, 2.2]],
        [[30, 46, 88, 5.0], [48, 74, 74, 4.2], [64, 98, 56, 3.0], [72, 108, 42, 2.0]],
        [[28, 48, 90, 4.6], [18, 78, 80, 3.8], [-2, 106, 74, 2.8]],
    ]
    for path in trees:
        place, distance = tube(canvas.space, spline(jittered(path, 3.0, rng), 8), reach_mm=4.0)
        canvas.paint(
            place,
            np.maximum(distance, liver_within(liver, box, place) + 2.0),
            level,
            edge_mm=3.0,
            occupy=False,
        )


def paint_hollow(
    canvas: Canvas,
    box: Box,
    distance: np.ndarray,
    *,
    wall_mm: float | np.ndarray,
    wall_hu: float | np.ndarray,
    content_hu: float | np.ndarray,
    gas_from_y: float | None,
    gap_hu: float,
) -> None:
    """Paints a hollow organ: its wall, its content, and gas in front of the fluid level.

    Args:
      gas_from_y: the fluid level in a patient lying on the back; None without gas.
      gap_hu: HU of the thin layer around the organ.
    """
    canvas.paint(box, distance, wall_hu, gap_mm=1.2, gap_hu=gap_hu)
    lumen = distance + wall_mm
    canvas.paint(box, lumen, content_hu, occupy=False)
    if gas_from_y is not None:
        canvas.paint(
            box, np.maximum(lumen, gas_from_y - canvas.space.y[box]), _GAS_HU, occupy=False
        )


def paint_stomach(canvas: Canvas, patient: Patient, torso: Torso, rng: np.random.Generator) -> None:
    """Paints the stomach, from the fundus under the left dome of the diaphragm to the pylorus.

    It is distended at C1; at C2 it is collapsed, with folded walls.
    """
    space, hu, size = canvas.space, patient.hu, patient.stomach_size
    drop = 6.0 * (1.0 - size)
    path = jittered(
        [
            [-62, 36, 86, 35 * size],
            [-74, 58, 60, 41 * size],
            [-72, 92 + drop, 26, 39 * size],
            [-44, 113 + drop, 0, 32 * size],
            [-8, 110 + drop, -14, 20 * size + 4],
            [18, 98, -10, 10 * size + 7],
            [34, 88, -6, 6 * size + 4],
        ],
        3.0,
        rng,
    )
    path = spline(path, 22)
    box, distance = tube(space, path)
    rugae = (1.0 + 2.2 * (1.0 - size)) * space.fine[1][box]
    distance = np.maximum(
        distance + 1.0 * space.medium[0][box], np.maximum(torso.cavity[box], torso.dome[box]) + 3.0
    )
    distance = canvas.free(box, distance, 1.5)
    lumen_front = path[:, 1].max() + path[:, 3].max() * 0.85
    lumen_back = path[:, 1].min() - path[:, 3].min()
    level = lumen_front - patient.stomach_gas * (lumen_front - lumen_back) * 0.75
    wall = 3.6 + 3.4 * (1.0 - size)
    canvas.paint(
        box, distance, hu["stomach_wall"] + 4.0 * space.fine[0][box], gap_mm=1.2, gap_hu=hu["fat"]
    )
    lumen = distance + wall + rugae
    canvas.paint(box, lumen, hu["stomach_content"] + 5.0 * space.medium[1][box], occupy=False)
    if patient.stomach_gas > 0.08:
        canvas.paint(
            box, np.maximum(lumen, np.float32(level) - space.y[box]), _GAS_HU, occupy=False
        )


def paint_duodenum_and_gallbladder(
    canvas: Canvas, patient: Patient, rng: np.random.Generator
) -> None:
    """Paints the duodenum's C around the pancreatic head, and the gallbladder if there is one.

    A duodenum filled with water is a dark structure beside the pancreas that can be mistaken for a
    tumour.
    """
    space, hu = canvas.space, patient.hu
    filled = patient.site.duodenum_filled
    reach = rng.uniform(12.0, 15.5) if filled else rng.uniform(9.5, 12.5)
    path = jittered(
        [
            [36, 88, -5, 9],
            [50, 76, -6, reach],
            [60, 58, -24, reach],
            [58, 50, -50, reach],
            [40, 44, -72, reach * 0.9],
            [8, 42, -78, reach * 0.8],
            [-26, 46, -66, reach * 0.85],
            [-44, 64, -48, reach * 0.9],
        ],
        2.5,
        rng,
    )
    path = spline(path, 26)
    path[:, 3] *= 1.0 + 0.07 * np.sin(np.arange(26) * 1.9)
    box, distance = tube(space, path)
    distance = canvas.free(box, distance + 0.8 * space.fine[0][box], 1.0)
    content = (
        hu["oral_contrast"] if patient.oral_contrast and rng.random() < 0.6 else hu["bowel_content"]
    )
    gas = 70.0 + rng.normal(0, 4) if rng.random() < 0.4 else None
    folds = 2.4 + (0.5 if filled else 2.0) * np.clip(space.fine[1][box], -1, 2)
    paint_hollow(
        canvas,
        box,
        distance,
        wall_mm=folds,
        wall_hu=hu["bowel_wall"],
        content_hu=content + 5 * space.medium[1][box],
        gas_from_y=gas,
        gap_hu=hu["fat"],
    )
    if not patient.gallbladder:
        return
    bladder = np.array([19.0, 22.0, 30.0]) * rng.uniform(0.65, 1.0)
    box, distance = ellipsoid(
        space, np.array([66, 92, -14]) + rng.normal(0, 4, 3), bladder, turn_deg=-20, tilt_deg=20
    )
    distance = canvas.free(box, distance)
    canvas.paint(box, distance, hu["bowel_wall"] - 10)
    canvas.paint(box, distance + 1.8, hu["bile"], occupy=False)


def paint_colon(canvas: Canvas, patient: Patient, torso: Torso, rng: np.random.Generator) -> None:
    """Paints the colon from the ascending to the descending part, with gas, stool and haustra."""
    space, hu = canvas.space, patient.hu
    lift = rng.normal(0, 8)
    points: list[list[float]] = [
        [96, 28, -120, 24],
        [98, 40, -70, 23],
        [96, 70, -50, 21],
        [74, 108, -52 + lift, 19],
        [30, 124, -62 + lift, 19],
        [-20, 128, -58 + lift, 18],
        [-64, 122, -36 + lift, 18],
        [-100, 86, 2, 18],
        [-118, 44, 8, 18],
        [-112, 22, -22, 15],
        [-108, 14, -120, 14],
    ]
    path = spline(jittered(points, 4.0, rng), 96)
    path[:, 3] *= 1.0 + 0.13 * np.sin(np.arange(96) * 1.35)
    box, distance = tube(space, path, reach_mm=6.0)
    distance = canvas.free(
        box, np.maximum(distance + 1.0 * space.fine[1][box], torso.cavity[box] + 2.0), 1.5
    )
    stool = (
        20.0
        + 30.0 * space.fine[0][box]
        - 380.0 * np.clip(space.fine[1][box] * space.medium[0][box] - 0.5, 0.0, 1.0)
    )
    canvas.paint(box, distance, hu["bowel_wall"] - 5.0, gap_mm=1.0, gap_hu=hu["fat"])
    lumen = distance + 2.0
    canvas.paint(box, lumen, stool, occupy=False)
    # The fluid level varies between haustra.
    gas = np.float32(104.0 + rng.normal(0, 8)) + 14.0 * space.medium[1][box] - space.y[box]
    canvas.paint(box, np.maximum(lumen, gas), _GAS_HU, occupy=False)


def paint_small_bowel(
    canvas: Canvas, patient: Patient, torso: Torso, rng: np.random.Generator
) -> None:
    """Paints jejunal loops in the free lower and left abdomen, mesenteric vessels and nodes."""
    space, hu = canvas.space, patient.hu
    for number in range(24):
        start = np.array([rng.uniform(-105, 45), rng.uniform(52, 128), rng.uniform(-95, -8)])
        if start[0] > -20 and start[2] > -40:
            start[2] -= 35.0
        if number < 4:  # jejunum high on the left, beside and in front of the pancreatic body
            start = np.array([rng.uniform(-100, -45), rng.uniform(60, 115), rng.uniform(-10, 35)])
        heading, points = rng.normal(0, 1, 3) * (1, 0.8, 0.5), [start]
        for _ in range(7):
            heading = heading / np.linalg.norm(heading) + rng.normal(0, 0.6, 3) * (1, 1, 0.6)
            step = points[-1] + 17.0 * heading / np.linalg.norm(heading)
            step = np.clip(step, (-112, 46, -130), (70, 138, 48 if step[0] < -35 else -38))
            if np.linalg.norm(step - points[-1]) < 5.0:  # at the border of the region: turn back
                heading = -heading
            else:
                points.append(step)
        if len(points) < 3:
            continue
        radius = rng.uniform(9.0, 13.5)
        path = spline(np.column_stack([points, np.full(len(points), radius)]), 15)
        box, distance = tube(space, path, reach_mm=6.0)
        distance = canvas.free(
            box, np.maximum(distance + 0.7 * space.fine[0][box], torso.cavity[box] + 3.0), 1.4
        )
        if patient.oral_contrast and rng.random() < 0.5:
            content = hu["oral_contrast"]
        else:
            content = hu["bowel_content"] + rng.uniform(-6, 26)
        feathers = rng.uniform(1.6, 5.5) + 1.6 * space.fine[1][box]
        gas = start[1] + rng.normal(4, 6) if rng.random() < 0.25 else None
        paint_hollow(
            canvas,
            box,
            distance,
            wall_mm=feathers,
            wall_hu=hu["bowel_wall"],
            content_hu=content,
            gas_from_y=gas,
            gap_hu=hu["fat"],
        )
    for _ in range(44):  # mesenteric vessels fan out from the root and end among the loops
        end = np.array([rng.uniform(-100, 60), rng.uniform(60, 125), rng.uniform(-90, 20)])
        root = np.array([4.0, 56.0, rng.uniform(-70, -25)])
        middle = (root + end) / 2 + rng.normal(0, 8, 3)
        box, distance = tube(
            space, spline([[*root, 2.2], [*middle, 1.8], [*end, 1.1]], 5), reach_mm=4.0
        )
        canvas.paint(
            box, canvas.free(box, distance, 0.5), hu["portal"] * 0.8, edge_mm=3.0, occupy=False
        )
    for _ in range(5):  # lymph nodes beside the aorta and in the mesentery
        place = np.array([rng.uniform(-35, 40), rng.uniform(34, 70), rng.uniform(-70, 40)])
        box, distance = ellipsoid(space, place, np.array([4.5, 3.5, 6.0]) * rng.uniform(0.8, 1.4))
        canvas.paint(box, canvas.free(box, distance, 0.8), hu["node"])
