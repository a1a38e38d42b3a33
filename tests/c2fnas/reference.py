"""The network's parts in slow float64 NumPy, one case at a time, as a reference for the layers."""

from __future__ import annotations

import itertools

import numpy as np


def convolve(voxels: np.ndarray, kernel: np.ndarray, *, stride: int = 1) -> np.ndarray:
    """Returns the convolution of [x, y, z, c] with [i, j, k, c, o].

    Half a kernel of zeros is padded on each side, whatever the stride.
    """
    pads = [(n // 2, n // 2) for n in kernel.shape[:3]]
    padded = np.pad(voxels.astype(np.float64), [*pads, (0, 0)])
    sizes = [(n + stride - 1) // stride for n in voxels.shape[:3]]
    result = np.zeros((*sizes, kernel.shape[4]))
    for offset in itertools.product(*(range(n) for n in kernel.shape[:3])):
        window = tuple(
            slice(o, o + stride * (n - 1) + 1, stride) for o, n in zip(offset, sizes, strict=True)
        )
        result += padded[window] @ kernel[offset].astype(np.float64)
    return result


def normalise(voxels: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    voxels = voxels.astype(np.float64)
    result = np.empty_like(voxels)
    for channel in range(voxels.shape[-1]):
        values = voxels[..., channel]
        deviations = values - values.sum() / values.size
        variance = (deviations**2).sum() / values.size
        result[..., channel] = (
            gamma[channel] * deviations / np.sqrt(variance + 1e-5) + beta[channel]
        )
    return result


def relu(voxels: np.ndarray) -> np.ndarray:
    return np.where(voxels > 0, voxels, 0.0)


def double(voxels: np.ndarray) -> np.ndarray:
    """Returns the doubled volume, each new voxel computed from its position.

    Its centre is at (i + 0.5) / 2 - 0.5 of the old grid, clamped; the eight neighbours are
    weighted."""
    nx, ny, nz, channels = voxels.shape
    result = np.zeros((2 * nx, 2 * ny, 2 * nz, channels))
    neighbours = [[_two_neighbours(i, n) for i in range(2 * n)] for n in (nx, ny, nz)]
    for x, y, z in np.ndindex(2 * nx, 2 * ny, 2 * nz):
        for (i, wi), (j, wj), (k, wk) in itertools.product(
            neighbours[0][x], neighbours[1][y], neighbours[2][z]
        ):
            result[x, y, z] += wi * wj * wk * voxels[i, j, k]
    return result


def _two_neighbours(index: int, size: int) -> list[tuple[int, float]]:
    position = min(max((index + 0.5) / 2 - 0.5, 0.0), size - 1.0)
    low = int(np.floor(position))
    return [(low, 1 - (position - low)), (min(low + 1, size - 1), position - low)]


def block(
    voxels: np.ndarray, weights: dict[str, np.ndarray], name: str, *, stride: int = 1
) -> np.ndarray:
    """Returns ReLU, the convolutions found under `name`, and norm of a volume."""
    voxels = relu(voxels)
    for part in (f"{name}/kernel", f"{name}/in_plane/kernel", f"{name}/through_plane/kernel"):
        if part in weights:
            voxels = convolve(voxels, weights[part], stride=stride)
    norm = f"{name}/through_plane" if f"{name}/through_plane/kernel" in weights else name
    return normalise(voxels, weights[f"{norm}/gamma"], weights[f"{norm}/beta"])


def logits(architecture, weights: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Returns the logits of the whole segmentation network: [x, y, z, 1] to [x, y, z, classes].

    For genotypes whose cells merge after the operation.
    """
    outputs = [
        block(
            normalise(convolve(image, weights["stem/first/kernel"]), *_norm(weights, "stem/first")),
            weights,
            "stem/second",
            stride=2,
        )
    ]
    for number, cell in enumerate(architecture.cells, start=1):
        merged = 0.0
        for index, source in enumerate(cell.inputs):
            voxels, name = outputs[source], f"cell{number:02d}/input{index}"
            if architecture.level_of(source) < cell.level:
                voxels = block(voxels, weights, f"{name}/down", stride=2)
            elif architecture.level_of(source) > cell.level:
                voxels = block(double_by_axis(voxels), weights, f"{name}/up")
            else:
                voxels = block(voxels, weights, f"{name}/first")
            merged = merged + block(voxels, weights, f"{name}/op")
        outputs.append(block(merged, weights, f"cell{number:02d}/last"))
    if architecture.level_of(len(architecture.cells) - 1) == 2:
        outputs[-2] = block(double_by_axis(outputs[-2]), weights, "end/up")
    voxels = block(np.concatenate([outputs[-1], outputs[-2]], axis=-1), weights, "end/first")
    voxels = normalise(
        convolve(double_by_axis(voxels), weights["end/second/kernel"]),
        *_norm(weights, "end/second"),
    )
    return convolve(relu(voxels), weights["end/classifier/kernel"]) + weights["end/classifier/bias"]


def double_by_axis(voxels: np.ndarray) -> np.ndarray:
    """Does the same as `double` one axis at a time, fast enough for a whole network."""
    for axis in range(3):
        neighbours = [_two_neighbours(i, voxels.shape[axis]) for i in range(2 * voxels.shape[axis])]
        weights = np.zeros((len(neighbours), voxels.shape[axis]))
        for row, pair in enumerate(neighbours):
            for column, weight in pair:
                weights[row, column] += weight
        voxels = np.moveaxis(np.tensordot(weights, voxels, axes=(1, axis)), 0, axis)
    return voxels


def _norm(weights: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    return weights[f"{name}/gamma"], weights[f"{name}/beta"]
