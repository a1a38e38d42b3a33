import numpy as np

from c2fnas import components


def test_voxels_that_share_a_corner_are_one_component():
    mask = np.zeros((5, 5, 5), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert components.count(mask) == 1
    mask[3, 1, 1] = True
    assert components.count(mask) == 2
    assert components.count(np.zeros((3, 3, 3), bool)) == 0


def test_the_largest_component_keeps_its_classes_and_nothing_else_stays():
    mask = np.zeros((9, 6, 5), np.uint8)
    mask[1:4, 1:3, 1:3] = 1
    mask[4, 2, 2] = 2  # touches the organ
    kept = mask.copy()
    mask[7:9, 4:6, 3:5] = 2  # larger than the organ's tumour, smaller than the organ
    before = mask.copy()
    np.testing.assert_array_equal(components.keep_largest(mask), kept)
    np.testing.assert_array_equal(mask, before)
    assert components.keep_largest(np.zeros((2, 2, 2), np.uint8)).sum() == 0
