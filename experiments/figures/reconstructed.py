"""Patches and their reconstructions by the VAE branch."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure


def reconstruction_figure(images: np.ndarray, drawn: np.ndarray, errors: np.ndarray) -> Figure:
    """Returns a picture of each patch's middle slice above that of its reconstruction.

    Args:
      images, drawn: patches and reconstructions, [n, x, y, z] in [-1, 1].
      errors: [n], shown below.
    """
    picture = Figure(figsize=(2.4 * len(images), 5.2), layout="constrained", dpi=120)
    for column, (image, again, error) in enumerate(zip(images, drawn, errors, strict=True)):
        for row, (volume, title) in enumerate(
            ((image, f"patch {column + 1}"), (again, f"mean squared error {error:.3f}"))
        ):
            axes = picture.add_subplot(2, len(images), row * len(images) + column + 1)
            axes.imshow(
                volume[:, :, volume.shape[2] // 2].T, cmap="gray", vmin=-1, vmax=1, origin="lower"
            )
            axes.set_title(title, fontsize=8)
            axes.set_axis_off()
    return picture
