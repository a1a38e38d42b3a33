"""Tumours for phantoms and real scans: size, contrast, shape within the free space, and HU."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import ndimage

from preprocessing.phantom.space import Box, Space, Vector, ellipsoid

_NECROSIS, _NECROSIS_HU = 0.3, 12.0  # share of tumours with a darker core; how much darker it is
EDGE_MM = 3.5  # width over which tumour and organ blend: a tumour has no capsule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tumours:
    """The tumours of a hospital's patients.

    Attributes:
      volume_ml: smallest and largest volume. The logarithm is uniform: there are as many tumours
        from 2 to 6 ml as from 6 to 18 ml.
      below_organ_hu: uniform range of how much darker a tumour is than the organ.
      iso_dense: share of tumours that instead differ from the organ by at most `iso_dense_hu`.
        Source of the default: Prokesch et al. 2002 (Radiology 224), 6 of 53 on multidetector CT.
    """

    volume_ml: tuple[float, float] = (2.0, 45.0)
    below_organ_hu: tuple[float, float] = (15.0, 62.0)
    iso_dense: float = 0.11
    iso_dense_hu: float = 5.0

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """Returns a random volume in ml, and by how many HU the tumour is darker than the organ."""
        smallest, largest = self.volume_ml
        volume_ml = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        if rng.random() < self.iso_dense:
            return volume_ml, float(rng.uniform(-self.iso_dense_hu, self.iso_dense_hu))
        return volume_ml, float(rng.uniform(*self.below_organ_hu))


def diameter_mm(volume_ml: float) -> float:
    """Returns the diameter of a ball of this volume."""
    return (6000.0 * volume_ml / math.pi) ** (1.0 / 3.0)


def grow(
    space: Space,
    box: Box,
    centre: Vector,
    diameter: float,
    room: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the distance in mm, float32 on `box`, to a lumpy ellipsoid around `centre`.

    Args:
      diameter: diameter in mm of a ball with the tumour's volume.
      room: float [box], positive where the tumour may be. The tumour grows by at most 8 mm to
        compensate for the volume outside the room.
    """
    radii = np.array([1.0, 1.0, 1.0]) * diameter / 2 * rng.uniform(0.82, 1.2, 3)
    _, shape = ellipsoid(space, centre, radii, turn_deg=rng.uniform(0, 180), within=box)
    shape = (
        shape
        + 0.10 * diameter * 0.5 * space.medium[0][box]
        + 0.06 * diameter * 0.5 * space.fine[1][box]
    )
    return of_volume(shape, room, np.pi / 6 * diameter**3 / 1000.0, space.spacing_mm, limit_mm=8.0)


def tissue_hu(
    space: Space,
    box: Box,
    tumour: np.ndarray,
    level_hu: float,
    rng: np.random.Generator,
    *,
    necrosis: bool = True,
) -> np.ndarray:
    """Returns the HU of the tumour's tissue on `box`: mottled, with a darker core in 30 %.

    Args:
      tumour: distance in mm, as returned by `grow`.
      necrosis: whether a core is possible; it would reveal an iso-dense tumour.
    """
    texture = level_hu + 6.0 * space.fine[0][box] + 4.0 * space.medium[1][box]
    if rng.random() < _NECROSIS and necrosis:
        texture = texture - _NECROSIS_HU * np.clip(-(tumour + 5.0) / 4.0, 0.0, 1.0)
    return texture


def of_volume(
    distance: np.ndarray, room: np.ndarray, volume_ml: float, spacing_mm: float, *, limit_mm: float
) -> np.ndarray:
    """Returns the shape grown or shrunk so that it has `volume_ml` inside `room` (> 0).

    The surface moves by at most `limit_mm`; only the largest connected piece is kept.
    """
    inside = np.sort(distance[room > 0], axis=None)
    count = min(int(volume_ml * 1000.0 / spacing_mm**3), len(inside) - 1)
    growth = float(np.clip(inside[count], -limit_mm, limit_mm))
    shape = np.maximum(distance - np.float32(growth), -room)
    parts, count = ndimage.label(shape < 0)
    if count > 1:  # drop the pieces that neighbouring organs have cut off
        largest = np.bincount(parts.ravel())[1:].argmax() + 1
        shape = np.where((parts > 0) & (parts != largest), np.float32(spacing_mm), shape)
    return shape
