"""A tumour: how large and how dark it is, its shape inside the room there is, and the HU it shows.
For phantoms and for real scans.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import ndimage

from preprocessing.phantom.space import Box, Space, ellipsoid

_NECROSIS, _NECROSIS_HU = (
    0.3,
    12.0,
)  # share of tumours with a darker core, and how much darker it is
EDGE_MM = 3.5  # width over which tumour and organ mix: a tumour has no capsule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tumours:
    """The tumours of a hospital's patients.

    Attributes:
      volume_ml: smallest and largest; the logarithm is uniform, so that there are as many between 2
          and 6 ml as between 6 and 18.
      below_organ_hu: least and most that a tumour is darker than the organ, uniform.
      iso_dense: share of tumours that differ from the organ by at most `iso_dense_hu` instead.
        Source of the default: Prokesch et al. 2002 (Radiology 224), 6 of 53 on multidetector CT.
    """

    volume_ml: tuple[float, float] = (2.0, 45.0)
    below_organ_hu: tuple[float, float] = (15.0, 62.0)
    iso_dense: float = 0.11
    iso_dense_hu: float = 5.0

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """Returns the volume in ml and by how many HU the tumour is darker than the organ."""
        smallest, largest = self.volume_ml
        volume_ml = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        if rng.random() < self.iso_dense:
            return volume_ml, float(rng.uniform(-self.iso_dense_hu, self.iso_dense_hu))
        return volume_ml, float(rng.uniform(*self.below_organ_hu))


def diameter_mm(volume_ml: float) -> float:
    """Returns the diameter of the ball of this volume."""
    return (6000.0 * volume_ml / math.pi) ** (1.0 / 3.0)


def grow(
    space: Space, box: Box, centre, diameter: float, room: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Returns the distance in mm, float32 on `box`, to a lumpy ellipsoid around `centre` with the
    volume of a ball of `diameter` mm.

    Args:
      room: float [box], positive where the tumour may be; it grows into what is left by at most 8
          mm to make up for what is not.
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
    """Returns the HU of the tumour's tissue on `box`: mottled, in three of ten with a darker core.

    Args:
      tumour: distance in mm, as `grow` returns it.
      necrosis: whether there may be a core; it would give an iso-dense tumour away.
    """
    texture = level_hu + 6.0 * space.fine[0][box] + 4.0 * space.medium[1][box]
    if rng.random() < _NECROSIS and necrosis:
        texture = texture - _NECROSIS_HU * np.clip(-(tumour + 5.0) / 4.0, 0.0, 1.0)
    return texture


def of_volume(
    distance: np.ndarray, room: np.ndarray, volume_ml: float, spacing_mm: float, *, limit_mm: float
) -> np.ndarray:
    """Returns the shape grown or shrunk by at most `limit_mm` so that its part inside `room` (> 0)
    has `volume_ml`; one piece.
    """
    inside = np.sort(distance[room > 0], axis=None)
    count = min(int(volume_ml * 1000.0 / spacing_mm**3), len(inside) - 1)
    growth = float(np.clip(inside[count], -limit_mm, limit_mm))
    shape = np.maximum(distance - np.float32(growth), -room)
    parts, count = ndimage.label(shape < 0)
    if count > 1:  # what its neighbours have cut off goes
        largest = np.bincount(parts.ravel())[1:].argmax() + 1
        shape = np.where((parts > 0) & (parts != largest), np.float32(spacing_mm), shape)
    return shape
