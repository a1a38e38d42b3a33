"""The network's parts once more, slowly and in float64 NumPy, one case at a time: what the layers are tested against."""

from __future__ import annotations

import itertools

import numpy as np


def convolve(voxels: np.ndarray, kernel: np.ndarray, *, stride: int = 1) -> np.ndarray:
    """[x, y, z, c] with [i, j, k, c, o]; zeros beyond the border, half a kernel on each side, whatever the stride."""
    pads = [(n // 2, n // 2) for n in kernel.shape[:3]]
    padded = np.pad(voxels.astype(np.float64), [*pads, (0, 0)])
    sizes = [(n + stride - 1) // stride for n in voxels.shape[:3]]
    result = np.zeros((*sizes, kernel.shape[4]))
    for offset in itertools.product(*(range(n) for n in kernel.shape[:3])):
        window = tuple(slice(o, o + stride * (n - 1) + 1, stride) for o, n in zip(offset, sizes, strict=True))
        result += padded[window] @ kernel[offset].astype(np.float64)
    return result


def normalise(voxels: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    voxels = voxels.astype(np.float64)
    result = np.empty_like(voxels)
    for channel in range(voxels.shape[-1]):
        values = voxels[..., channel]
        deviations = values - values.sum() / values.size
        variance = (deviations**2).sum() / values.size
        result[..., channel] = gamma[channel] * deviations / np.sqrt(variance + 1e-5) + beta[channel]
    return result


def relu(voxels: np.ndarray) -> np.ndarray:
    return np.where(voxels > 0, voxels, 0.0)


def double(voxels: np.ndarray) -> np.ndarray:
    """Every new voxel from its position: centre (i + 0.5) / 2 - 0.5 of the old grid, clamped, eight neighbours weighted."""
    nx, ny, nz, channels = voxels.shape
    result = np.zeros((2 * nx, 2 * ny, 2 * nz, channels))
    neighbours = [[_two_neighbours(i, n) for i in range(2 * n)] for n in (nx, ny, nz)]
    for x, y, z in np.ndindex(2 * nx, 2 * ny, 2 * nz):
        for (i, wi), (j, wj), (k, wk) in itertools.product(neighbours[0][x], neighbours[1][y], neighbours[2][z]):
            result[x, y, z] += wi * wj * wk * voxels[i, j, k]
    return result


def _two_neighbours(index: int, size: int) -> list[tuple[int, float]]:
    position = min(max((index + 0.5) / 2 - 0.5, 0.0), size - 1.0)
    low = int(np.floor(position))
    return [(low, 1 - (position - low)), (min(low + 1, size - 1), position - low)]


def block(voxels: np.ndarray, weights: dict[str, np.ndarray], name: str, *, stride: int = 1) -> np.ndarray:
    """ReLU, the convolutions found under `name`, norm."""
    voxels = relu(voxels)
    for part in (f"{name}/kernel", f"{name}/in_plane/kernel", f"{name}/through_plane/kernel"):
        if part in weights:
            voxels = convolve(voxels, weights[part], stride=stride)
    norm = f"{name}/through_plane" if f"{name}/through_plane/kernel" in weights else name
    return normalise(voxels, weights[f"{norm}/gamma"], weights[f"{norm}/beta"])
