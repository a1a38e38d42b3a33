import numpy as np
import pytest
from scipy import ndimage

from c2fnas.scores import components


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


def test_components_meet_where_they_share_a_voxel_and_not_where_they_touch():
    truth, prediction = np.zeros((12, 6, 6), bool), np.zeros((12, 6, 6), bool)
    truth[1:3, 1:3, 1:3] = truth[5:7, 1:3, 1:3] = truth[9:11, 4:6, 4:6] = True
    prediction[2:6, 1:3, 1:3] = True  # one part over two tumours
    prediction[8, 3, 3] = True  # touches the third at a corner
    prediction[0, 5, 5] = True
    assert components.count_matches(prediction, truth) == (3, 3, 2, 2)
    assert components.count_matches(prediction, np.zeros_like(truth)) == (3, 0, 0, 3)
    assert components.count_matches(np.zeros_like(truth), truth) == (0, 3, 0, 0)
    assert components.count_matches(np.zeros_like(truth), np.zeros_like(truth)) == (0, 0, 0, 0)


@pytest.mark.parametrize("shape", [(9, 8, 7), (1, 6, 5), (6, 1, 5), (7, 6, 1), (1, 1, 1)])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("order", ["C", "F"])
def test_components_equal_those_of_scipy(shape, share, order):
    generator = np.random.default_rng(4)
    for _ in range(10):
        prediction, truth = (
            np.asarray(generator.random(shape) < share, order=order) for _ in range(2)
        )
        (own, predicted), (true, present) = (
            ndimage.label(mask, np.ones((3, 3, 3))) for mask in (prediction, truth)
        )
        found = set(true[prediction]) - {0}
        matched = set(own[truth]) - {0}
        assert components.count(prediction) == predicted
        assert components.count_matches(prediction, truth) == (
            predicted,
            present,
            len(found),
            predicted - len(matched),
        )
        mask = np.asarray(prediction * generator.integers(1, 3, shape), np.uint8, order=order)
        sizes = np.bincount(own.ravel(), minlength=2)[1:]
        kept = np.where(own == 1 + sizes.argmax(), mask, 0)  # the first one of equal size
        np.testing.assert_array_equal(components.keep_largest(mask), kept)
