"""The smallest box around a mask, compared with a search of every voxel."""

import numpy as np
import pytest

from c2fnas.scores import boxes


@pytest.mark.parametrize("seed", range(20))
def test_the_box_is_that_of_the_extreme_voxels(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((7, 5, 9), np.uint8)
    places = rng.integers(0, mask.shape, (rng.integers(1, 4), 3))
    mask[tuple(places.T)] = 2
    expected = [
        slice(int(low), int(high) + 1)
        for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True)
    ]
    assert list(boxes.around(mask)) == list(boxes.around(mask > 0)) == expected


def test_an_empty_mask_has_no_box():
    assert boxes.around(np.zeros((4, 3, 2), bool)) is None
