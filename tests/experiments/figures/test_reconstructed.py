"""Patches above their reconstructions by the VAE branch."""

import numpy as np

from experiments import figures


def test_each_patch_stands_above_its_reconstruction_with_its_error():
    images = np.stack([np.full((4, 5, 6), level) for level in (-0.5, 0.5)])
    images[1, 2, 3, 3] = 1.0  # in the middle slice
    figure = figures.reconstruction_figure(images, -images, np.array([1.0, 0.25]))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["patch 1", "mean squared error 1.000", "patch 2", "mean squared error 0.250"]
    first, drawn = (figure.axes[i].images[0].get_array() for i in (2, 3))
    np.testing.assert_array_equal(first, images[1, :, :, 3].T)
    np.testing.assert_array_equal(drawn, -images[1, :, :, 3].T)
