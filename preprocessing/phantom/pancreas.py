"""The pancreas and its tumour, the two labelled shapes."""

from __future__ import annotations

import dataclasses

import numpy as np

from preprocessing.phantom.hospital import Patient
from preprocessing.phantom.space import Box, Canvas, spline, tube
from preprocessing.phantom.tumour import EDGE_MM, diameter_mm, grow, of_volume, tissue_hu
from preprocessing.phantom.viscera import jittered


@dataclasses.dataclass(frozen=True)
class Target:
    """The labelled shapes as distances in mm, float32 on `box`; `tumour` is None if healthy."""

    box: Box
    pancreas: np.ndarray
    tumour: np.ndarray | None


def paint_pancreas(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> Target:
    """Paints pancreas and tumour into the space left by other organs; returns their shapes.

    The pancreas is a tube of varying radius along a spline: uncinate process and head inside the C
    of the duodenum, neck in front of the superior mesenteric vein, body over the aorta, tail rising
    to the splenic hilum.
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
    if tumour_at is not None:  # the pancreas upstream of a tumour atrophies
        centreline[tumour_at:, 3] *= rng.uniform(0.84, 0.96)
    flat = (1.0, 0.92 - 0.10 * max(0.0, patient.stomach_size - 0.7), 1.05)
    box, distance = tube(space, centreline, stretch=flat)
    distance = distance + patient.lobulation_mm * (
        0.75 * space.fine[0][box] + 0.45 * space.medium[1][box]
    )
    pancreas = of_volume(
        np.maximum(distance, -40.0),
        canvas.occupied[box] - 0.8,
        patient.pancreas_ml,
        space.spacing_mm,
        limit_mm=3.5,
    )
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
    """Returns an index into the 40 samples of the centreline.

    60 % of the tumours are in the head, 22 % in the body and 18 % in the tail, as in the clinic.
    """
    first, last = ((4, 15), (18, 28), (29, 36))[rng.choice(3, p=(0.6, 0.22, 0.18))]
    return int(rng.integers(first, last))


def _paint_tumour(
    canvas: Canvas,
    patient: Patient,
    box: Box,
    pancreas: np.ndarray,
    centreline: np.ndarray,
    at: int,
    rng: np.random.Generator,
) -> np.ndarray:
    space, hu, model = canvas.space, patient.hu, patient.site.tumours
    if model is None:
        diameter, below_hu = (
            float(np.clip(rng.normal(37.0, 5.0), 16.0, 50.0)),
            hu["tumour_below_pancreas"],
        )
    else:
        volume_ml, below_hu = model.draw(rng)
        diameter = diameter_mm(volume_ml)
    direction = rng.normal(0, 1, 3) * (1.0, 1.0, 0.7)
    offset = direction / np.linalg.norm(direction) * centreline[at, 3] * rng.uniform(0.1, 1.0)
    tumour = grow(space, box, centreline[at, :3] + offset, diameter, canvas.occupied[box], rng)
    if at < 30:  # the duct upstream of the tumour is dilated
        width = rng.uniform(1.4, 3.0)
        duct = centreline[at:].copy()
        duct[:, 3] = np.linspace(width, 0.8, len(duct))
        _, distance = tube(space, duct, within=box)
        canvas.paint(box, np.maximum(distance, pancreas + 2.0), 14.0, occupy=False)
    visible = model is None or below_hu >= model.below_organ_hu[0]
    texture = tissue_hu(space, box, tumour, hu["pancreas"] - below_hu, rng, necrosis=visible)
    canvas.paint(box, tumour, texture, edge_mm=EDGE_MM, occupy=False)
    return tumour
