"""Paints a tumour into the pancreas of a real scan, as the hard phantom does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from preprocessing.axes import Box, three
from preprocessing.phantom.space import Pose, Space
from preprocessing.phantom.tumour import EDGE_MM, Tumours, diameter_mm, grow, tissue_hu

_GRID_MM = 2.0  # spacing of the tumour's shape, as in the phantom
_MARGIN_MM = 28.0  # margin around the organ: more than a tumour extends beyond it
_BULGE_MM = 5.0  # how far a tumour grows out of the organ
_KEEPS_OUT_HU = (-200.0, 250.0)  # limits beyond which lie gas, bone and vessels full of contrast
_FAT_HU = -30.0
_DARKEST_HU = 0.0  # no solid tumour is darker than water
_LARGEST_SHARE = 0.5  # largest tumour, as a share of the organ's volume
_SMOOTH_MM = 3.0  # finer structure counts as noise and is kept
# Head, body, tail: six of ten tumours lie in the head, as in the phantom.
_THIRDS = (0.6, 0.22, 0.18)


@dataclasses.dataclass(frozen=True)
class Organ:
    """The properties of a pancreas that are needed to insert a tumour.

    Attributes:
      level_hu: median HU of its tissue, without the fat between its lobules.
    """

    volume_ml: float
    level_hu: float


def measure(ct: np.ndarray, organ: np.ndarray, spacing_mm: Sequence[float]) -> Organ:
    """Measures an organ.

    Args:
      ct: HU [x, y, z].
      organ: bool [x, y, z], not empty.
    """
    inner = ndimage.binary_erosion(organ)
    values = ct[inner if np.count_nonzero(inner) >= 50 else organ]
    tissue = values[values > _FAT_HU]
    level = float(np.median(tissue if len(tissue) else values))
    return Organ(np.count_nonzero(organ) * float(np.prod(spacing_mm)) / 1000.0, level)


def insert(
    ct: np.ndarray,
    organ: np.ndarray,
    spacing_mm: tuple[float, float, float],
    model: Tumours,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the CT (int16) and labels (uint8: 1 pancreas, 2 tumour) with one tumour.

    The tumour is a lumpy ellipsoid around a place inside the organ. `model` draws its volume, which
    is at most half of the organ's. It may bulge out by 5 mm, but not into gas, bone or vessels full
    of contrast medium. `model` also draws how much darker its tissue is than the organ; but it is
    never darker than water, so that in an organ without contrast medium or full of fat, most
    tumours are almost iso-dense. The noise of the scan (structure finer than 3 mm) is added to the
    tissue. Other signs of a real tumour (a wide duct, an atrophic tail, displaced vessels) are not
    simulated.

    Args:
      ct: int16 [x, y, z] in RAS+ order, HU.
      organ: bool [x, y, z], the healthy pancreas.
    Raises:
      ValueError: if the organ is too small for the smallest tumour of `model`.
    """
    found = measure(ct, organ, spacing_mm)
    largest_ml = min(model.volume_ml[1], _LARGEST_SHARE * found.volume_ml)
    if largest_ml < model.volume_ml[0]:
        needed = model.volume_ml[0] / _LARGEST_SHARE
        raise ValueError(
            f"its pancreas measures {found.volume_ml:.1f} ml; "
            f"a tumour of {model.volume_ml[0]:g} ml needs one of {needed:g} ml"
        )
    volume_ml, below_hu = dataclasses.replace(
        model, volume_ml=(model.volume_ml[0], largest_ml)
    ).draw(rng)
    level_hu = max(found.level_hu - below_hu, _DARKEST_HU)

    box = _around(organ, spacing_mm)
    hu, inside = ct[box].astype(np.float32), organ[box]
    depth = _signed_distance(inside, spacing_mm)
    upper = [(n - 1) * s for n, s in zip(inside.shape, spacing_mm, strict=True)]
    space = Space((0.0, 0.0, 0.0), upper, _GRID_MM, Pose(), 0.0, rng)
    whole = space.whole()

    places = np.meshgrid(
        *(_GRID_MM * np.arange(n) / s for n, s in zip(space.shape, spacing_mm, strict=True)),
        indexing="ij",
    )
    distance = ndimage.map_coordinates(depth, places, order=1, mode="nearest")
    coarse_hu = ndimage.map_coordinates(
        ndimage.gaussian_filter(hu, [1.0 / s for s in spacing_mm]), places, order=1, mode="nearest"
    )
    open_to_it = (coarse_hu > _KEEPS_OUT_HU[0]) & (coarse_hu < _KEEPS_OUT_HU[1])
    room = np.where(open_to_it, _BULGE_MM - distance, -_GRID_MM)
    centre = _place(depth, spacing_mm, rng)
    tumour = grow(space, whole, centre, diameter_mm(volume_ml), room, rng)
    tissue = tissue_hu(
        space, whole, tumour, level_hu, rng, necrosis=below_hu >= model.below_organ_hu[0]
    )

    back = np.meshgrid(
        *(s * np.arange(n) / _GRID_MM for n, s in zip(inside.shape, spacing_mm, strict=True)),
        indexing="ij",
    )
    tumour, tissue = (
        ndimage.map_coordinates(field.astype(np.float32), back, order=1, mode="nearest")
        for field in (tumour, tissue)
    )
    share = np.clip(0.5 - tumour / EDGE_MM, 0.0, 1.0)
    painted = hu + share * (tissue + _noise(hu, inside, spacing_mm) - hu)
    result, labels = ct.copy(), organ.astype(np.uint8)
    result[box] = np.where(share > 0, np.rint(np.clip(painted, -1024, 3071)), ct[box])
    labels[box][tumour < 0] = 2
    return result, labels


def _around(organ: np.ndarray, spacing_mm: Sequence[float]) -> Box:
    box = []
    for axis, spacing in enumerate(spacing_mm):
        used = np.flatnonzero(organ.any(axis=tuple({0, 1, 2} - {axis})))
        margin = int(np.ceil(_MARGIN_MM / spacing))
        box.append(slice(max(0, used[0] - margin), min(organ.shape[axis], used[-1] + margin + 1)))
    return three(box)


def _signed_distance(inside: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Returns the distance to the organ's surface in mm, negative inside.

    The surface lies half a voxel from the centres of the voxels beside it.
    """
    out, into = (
        ndimage.distance_transform_edt(mask, sampling=spacing_mm) for mask in (~inside, inside)
    )
    half = min(spacing_mm) / 2
    return np.where(inside, half - into, out - half).astype(np.float32)


def _place(depth: np.ndarray, spacing_mm: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Returns a place in the deeper half of the organ's head, body or tail, in mm in the box.

    The three are thirds of the organ's volume from right to left.
    """
    voxels = np.argwhere(depth < 0)  # x grows to the patient's right
    thirds = np.array_split(voxels[np.argsort(-voxels[:, 0], kind="stable")], 3)
    chosen = thirds[rng.choice(3, p=_THIRDS)]
    depths = depth[tuple(chosen.T)]
    deep = chosen[depths <= np.median(depths)]
    return deep[rng.integers(len(deep))] * np.array(spacing_mm)


def _noise(hu: np.ndarray, inside: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Returns the structure finer than 3 mm, or than a voxel if voxels are larger.

    It is clipped, because large deviations are other tissue, not noise. Organ and surroundings are
    smoothed separately: otherwise the step at the organ's surface would count as noise.
    """
    sigma = [max(1.0, _SMOOTH_MM / s) for s in spacing_mm]
    rest = hu.copy()
    for side in (inside, ~inside):
        weight = ndimage.gaussian_filter(side.astype(np.float32), sigma)
        smooth = ndimage.gaussian_filter(np.where(side, hu, 0.0).astype(np.float32), sigma)
        rest[side] -= smooth[side] / weight[side]
    within = rest[inside]
    deviation = 1.4826 * np.median(np.abs(within - np.median(within)))
    return np.clip(rest, -2.5 * deviation, 2.5 * deviation)
