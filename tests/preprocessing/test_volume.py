import numpy as np
import pytest

from preprocessing.volume import Grid, Volume


def test_spacing_is_the_length_of_each_column():
    affine = np.array(
        [[0.0, -3.0, 0.0, 9.0], [2.0, 4.0, 0.0, 9.0], [0.0, 0.0, 1.5, 9.0], [0.0, 0.0, 0.0, 1.0]]
    )
    assert Volume(np.zeros((2, 3, 4)), affine).spacing_mm == (
        2.0,
        5.0,
        1.5,
    )  # 3-4-5 triangle in the second column
    assert Grid((2, 3, 4), affine).spacing_mm == (2.0, 5.0, 1.5)


@pytest.mark.parametrize(
    ("array", "affine"), [(np.zeros((2, 2)), np.eye(4)), (np.zeros((2, 2, 2)), np.eye(3))]
)
def test_a_volume_has_three_axes_and_a_4x4_affine(array, affine):
    with pytest.raises(ValueError, match="three axes"):
        Volume(array, affine)
