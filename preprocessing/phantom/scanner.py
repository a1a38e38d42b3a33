"""The synthetic scanner: turns anatomy on a coarse grid into CT and labels on the native grid.

Each slice is the mean over its thickness, so 5 mm slices blur oblique structures. Slices are
computed one at a time: they fit the processor's cache, and the only large array is the int16
volume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import ndimage, sparse

from preprocessing.phantom.pancreas import Target
from preprocessing.phantom.space import Space

_BYTE_VARIANCE = (256**2 - 1) / 12.0


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """Native grid and image quality of one scan; slice thickness and slice distance are equal."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    first_mm: tuple[float, float, float]  # scanner coordinates of the first voxel's centre
    noise_hu: float  # standard deviation 50 mm below the skin, in these slices
    noise_passes: int
    kernel_mm: float

    def centres(self, axis: int) -> np.ndarray:
        """Returns the scanner coordinates in mm of the voxel centres along an axis."""
        return self.first_mm[axis] + self.spacing_mm[axis] * np.arange(self.shape[axis])


def linear_weights(
    positions_mm: np.ndarray,
    lower_mm: float,
    spacing_mm: float,
    count: int,
    thickness_mm: float = 0.0,
) -> sparse.csr_matrix:
    """Returns float32 [positions, count], the weights of linear interpolation on a grid.

    Args:
      positions_mm: where to interpolate.
      lower_mm, spacing_mm, count: the grid.
      thickness_mm: width around each position over which to average.
    """
    samples = max(1, int(np.ceil(thickness_mm / 0.5)))
    shifts = (np.arange(samples) + 0.5) / samples * thickness_mm - thickness_mm / 2
    place = np.clip(
        (positions_mm[:, None] + shifts[None, :] - lower_mm) / spacing_mm, 0.0, count - 1
    )
    low = np.minimum(place.astype(int), count - 2)
    share = place - low
    rows = np.repeat(np.arange(len(positions_mm)), samples)
    rows, columns = np.concatenate([rows, rows]), np.concatenate([low.ravel(), low.ravel() + 1])
    values = np.concatenate([1.0 - share.ravel(), share.ravel()]) / samples
    return sparse.coo_matrix(
        (values.astype(np.float32), (rows, columns)), shape=(len(positions_mm), count)
    ).tocsr()


def scan(
    space: Space,
    hu: np.ndarray,
    body: np.ndarray,
    target: Target,
    acquisition: Acquisition,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the CT (int16) and labels (uint8), [x, y, z] in Fortran order as NIfTI stores them.

    Args:
      hu: the anatomy on the grid of `space`.
      body: the distance to the skin on the same grid.
    """
    nx, ny, nz = acquisition.shape
    weights = [
        linear_weights(acquisition.centres(a), space.lower_mm[a], space.spacing_mm, space.shape[a])
        for a in range(3)
    ]
    slab = linear_weights(
        acquisition.centres(2),
        space.lower_mm[2],
        space.spacing_mm,
        space.shape[2],
        acquisition.spacing_mm[2],
    )
    anatomy = np.ascontiguousarray((hu + _shading(space, body, rng)).transpose(2, 1, 0))
    if acquisition.kernel_mm:
        blur = acquisition.kernel_mm / space.spacing_mm
        anatomy = ndimage.gaussian_filter1d(
            ndimage.gaussian_filter1d(anatomy, blur, axis=1, truncate=3), blur, axis=2, truncate=3
        )
    slices = (slab @ anatomy.reshape(space.shape[2], -1)).reshape(
        nz, space.shape[1], space.shape[0]
    )
    noise_sd = _noise_sd(acquisition, weights, space, body)
    noise = _Noise(acquisition, rng)
    ct = np.empty((nz, ny, nx), np.int16)
    for k in range(nz):
        plane = weights[0] @ np.ascontiguousarray((weights[1] @ slices[k]).T)
        plane = plane.T + noise.slice() * noise_sd
        np.rint(np.clip(plane, -1024.0, 3071.0, out=plane), out=plane)
        ct[k] = plane
    labels = _labels(target, weights, acquisition.shape)
    return ct.transpose(2, 1, 0), labels.transpose(2, 1, 0)


def _labels(
    target: Target, weights: list[sparse.csr_matrix], shape: tuple[int, int, int]
) -> np.ndarray:
    """Returns labels uint8 [z, y, x]: the implicit shapes sampled at the native voxel centres.

    Tumour voxels are not pancreas.
    """
    labels = np.zeros(shape[::-1], np.uint8)
    rows, inner = [], []
    for axis, box in enumerate(target.box):
        # the native voxels that are interpolated only from inside the box
        part = weights[axis][:, box]
        used = np.flatnonzero(np.asarray(part.sum(axis=1)).ravel() > 0.999)
        rows.append(slice(used[0], used[-1] + 1))
        inner.append(part[used[0] : used[-1] + 1])

    def native(distance: np.ndarray) -> Iterator[np.ndarray]:
        z = np.ascontiguousarray(distance.transpose(2, 1, 0))
        planes = (inner[2] @ z.reshape(z.shape[0], -1)).reshape(-1, *z.shape[1:])
        for plane in planes:
            yield (inner[0] @ np.ascontiguousarray((inner[1] @ plane).T)).T

    view = labels[rows[2], rows[1], rows[0]]
    for k, plane in enumerate(native(target.pancreas)):
        view[k] = plane < 0
    if target.tumour is not None:
        for k, plane in enumerate(native(target.tumour)):
            view[k][plane < 0] = 2
    return labels


def _shading(space: Space, body: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns mild beam hardening: a centre that is a few HU too dark, and a slow drift."""
    inside = np.clip(-body / 100.0, 0.0, 1.0)
    drift = np.sin(
        (space.x * rng.normal(0, 1) + space.y * rng.normal(0, 1)) / 90.0 + rng.uniform(0, 6)
    )
    return np.float32(-5.0) * inside + np.float32(1.5) * drift * (body < 0)


def _noise_sd(
    acquisition: Acquisition, weights: list[sparse.csr_matrix], space: Space, body: np.ndarray
) -> np.ndarray:
    """Returns the noise's standard deviation in HU [y, x].

    It is `noise_hu` 50 mm below the skin, 1.15 times that from 63 mm on, where the rays cross most
    tissue, and 0.3 times that in air.
    """
    middle = body[:, :, space.shape[2] // 2]
    coarse = acquisition.noise_hu * np.clip(0.45 - middle / 90.0, 0.3, 1.15)
    return np.ascontiguousarray(
        (weights[0] @ (weights[1] @ np.ascontiguousarray(coarse.T)).T.copy()).T.astype(np.float32)
    )


class _Noise:
    """Slices [y, x] of correlated noise with unit variance.

    White noise is the sum of two random bytes, a tenth of the cost of normal numbers; smoothing
    makes it almost Gaussian.
    """

    def __init__(self, acquisition: Acquisition, rng: np.random.Generator):
        self._size = acquisition.shape[1::-1]
        self._passes = acquisition.noise_passes
        self._bits = rng.bit_generator
        gain = np.array([1.0])
        for _ in range(self._passes):
            gain = np.convolve(gain, [1.0, 1.0])
        self._scale = np.float32(1.0 / (np.sqrt(2 * _BYTE_VARIANCE) * np.sum(gain**2)))
        self._mean = np.float32(255.0 * np.sum(gain) ** 2)

    def slice(self) -> np.ndarray:
        ny, nx = self._size[0] + self._passes, self._size[1] + self._passes
        draws = self._bits.random_raw((2 * ny * nx + 7) // 8).view(np.uint8)
        # int16: at most 510 * 4**3 after three passes
        field = np.add(draws[: ny * nx], draws[ny * nx : 2 * ny * nx], dtype=np.int16)
        field = field.reshape(ny, nx)
        for _ in range(self._passes):
            field = field[1:] + field[:-1]
            field = field[:, 1:] + field[:, :-1]
        return (field - self._mean) * self._scale
