"""The area of a surface in each neighbourhood of eight voxels."""

import numpy as np
import pytest

from c2fnas.scores import surface_elements


def test_areas_by_hand():
    area = surface_elements.areas((1, 1, 1))
    assert area[0] == area[255] == 0
    assert area[1] == pytest.approx(
        np.sqrt(3) / 8
    )  # one corner: a triangle with sides of sqrt(1/2)
    assert area[0b10000001] == pytest.approx(
        np.sqrt(3) / 4
    )  # two opposite corners: two such triangles
    assert area[0b11] == pytest.approx(
        np.sqrt(0.5)
    )  # two neighbours along z: a rectangle 1 x sqrt(1/2)
    assert area[0b1111] == pytest.approx(1)  # four in a plane: a square
    np.testing.assert_allclose(area, area[::-1])  # a mask and its complement have one surface
    stretched = surface_elements.areas((2, 3, 5))
    assert (
        stretched[0b1111] == pytest.approx(15)
        and stretched[0b110011] == pytest.approx(10)
        and stretched[0b1010101] == pytest.approx(6)
    )
