import numpy as np
import pytest

from c2fnas import window_kernels


def window(shape=(5, 4, 6), seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=shape).astype(np.float32)
    return logits, tuple(rng.uniform(0.1, 1, n).astype(np.float32) for n in shape)


def weighted(logits, weights):
    """Returns the products in float64, by broadcasting."""
    x, y, z = (w.astype(np.float64) for w in weights)
    return logits * x[:, None, None] * y[:, None] * z


NOWHERE = (99, 99, 99)


def test_a_window_is_added_at_its_place_and_nowhere_else():
    logits, weights = window()
    sums = np.random.default_rng(1).normal(size=(5, 9, 11)).astype(np.float32)
    expected = sums.astype(np.float64)
    for x in range(5):  # the window starts at plane 7, and the sums wrap around at 5
        expected[(7 + x) % 5, 3:7, 2:8] += weighted(logits, weights)[x]
    assert window_kernels.add_weighted(sums, logits, weights, (7, 3, 2), NOWHERE, 0, 5)
    np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=1e-6)


def test_values_that_no_window_has_covered_are_set():
    logits, weights = window()
    sums = np.full((5, 4, 6), 7.0, np.float32)
    sums[2:, 1:, 4:] = np.nan  # like memory that was never written
    products = weighted(logits, weights)
    expected = 7.0 + products
    expected[2:, 1:, 4:] = products[2:, 1:, 4:]
    assert window_kernels.add_weighted(sums, logits, weights, (0, 0, 0), (2, 1, 4), 0, 5)
    np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_planes_in_parts_are_the_same_bits(cut):
    logits, weights = window()
    whole, parts = (np.zeros((5, 4, 6), np.float32) for _ in range(2))
    window_kernels.add_weighted(whole, logits, weights, (3, 0, 0), NOWHERE, 0, 5)
    window_kernels.add_weighted(parts, logits, weights, (3, 0, 0), NOWHERE, cut, 5)
    assert not np.array_equal(parts, whole)
    window_kernels.add_weighted(parts, logits, weights, (3, 0, 0), NOWHERE, 0, cut)
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (4, 3, 5), (2, 1, 3)])
def test_a_value_that_is_not_finite_is_found_anywhere(value, place):
    logits, weights = window()
    logits[place] = value
    found = [
        not window_kernels.add_weighted(
            np.zeros((5, 4, 6), np.float32), logits, weights, (0, 0, 0), NOWHERE, x, x + 1
        )
        for x in range(5)
    ]
    assert found == [x == place[0] for x in range(5)]


def test_the_largest_finite_values_are_finite():
    logits, weights = window()
    logits[1, 1, 1], logits[2, 2, 2] = np.finfo(np.float32).max, np.finfo(np.float32).min
    assert window_kernels.add_weighted(
        np.zeros((5, 4, 6), np.float32), logits, weights, (0, 0, 0), NOWHERE, 0, 5
    )


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_the_likeliest_class_is_argmax(classes):
    logits = (
        np.random.default_rng(classes).integers(-3, 3, (4, 5, 6, classes)).astype(np.float32)
    )  # integers, so that many values are equal
    mask = np.full((4, 5, 6), 255, np.uint8)
    window_kernels.likeliest(logits, mask)
    np.testing.assert_array_equal(mask, np.argmax(logits, axis=-1))


def test_the_likeliest_class_of_a_part_of_a_slab():
    logits = np.random.default_rng(3).normal(size=(4, 8, 9, 3)).astype(np.float32)[1:3, 2:7, 3:8]
    mask = np.zeros((4, 5, 5), np.uint8)
    window_kernels.likeliest(logits, mask[1:3])
    np.testing.assert_array_equal(mask[1:3], np.argmax(logits, axis=-1))
    assert not mask[[0, 3]].any()
