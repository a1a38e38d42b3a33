"""Boxes and arrows at the requested places."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.path import Path

from experiments.figures import shapes


@pytest.fixture
def axes():
    drawn = Figure().add_axes((0, 0, 1, 1))
    drawn.set(xlim=(0, 4), ylim=(0, 3))
    return drawn


def test_a_box_covers_its_rectangle_with_rounded_corners(axes):
    shapes.box(axes, 1.0, 0.5, 2.0, 1.5, rounding=0.25, facecolor="red")
    (patch,) = axes.patches
    outline = patch.get_path().vertices
    np.testing.assert_allclose(outline.min(axis=0), [1.0, 0.5], atol=1e-9)
    np.testing.assert_allclose(outline.max(axis=0), [3.0, 2.0], atol=1e-9)
    corner = np.abs(outline - [1.0, 0.5]).sum(axis=1).min()
    assert corner == pytest.approx(0.0, abs=1e-9) or corner <= 0.25  # a control point at most
    assert not patch.get_path().contains_point((1.01, 0.51))
    assert patch.get_path().contains_point((1.01, 1.0)) and patch.get_facecolor()[0] == 1.0


def test_an_arrow_points_from_its_start_to_its_end(axes):
    shapes.arrow(axes, (0.5, 1.0), (3.5, 1.0), head=10.0, gap=0.0, linewidth=2.0)
    (patch,) = axes.patches
    assert patch.get_mutation_scale() == 10.0 and patch.get_linewidth() == 2.0
    path = patch.get_path()
    x, y = path.vertices[path.codes != Path.CLOSEPOLY].T
    assert (x.min(), x.max()) == pytest.approx((0.5, 3.5), abs=0.1)
    assert x[np.abs(y - 1.0).argmax()] > 3.0  # the head is at the end
