import itertools

import numpy as np
import pytest

from preprocessing import axes


def test_three_values_become_a_tuple_and_another_number_is_refused():
    assert axes.three(n * n for n in (1, 2, 3)) == (1, 4, 9)
    for wrong in ((1, 2), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match="values to unpack"):
            axes.three(wrong)


@pytest.mark.parametrize("flips", itertools.product((False, True), repeat=3))
def test_mirrored_is_numpys_flip_of_these_axes_without_a_copy(flips):
    array = np.arange(24).reshape(2, 3, 4)
    found = axes.mirrored(array, flips)
    np.testing.assert_array_equal(found, np.flip(array, [i for i in range(3) if flips[i]]))
    assert np.shares_memory(found, array)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_memory_order_lists_the_slowest_axis_first(order):
    array = np.zeros((4, 5, 6)).transpose(order)
    # axis i of the view is axis order[i] of the C-ordered array, of which axis 0 is the slowest
    expected = tuple(order.index(axis) for axis in range(3))
    assert axes.memory_order(array) == axes.memory_order(array[::-1, :, ::-1]) == expected
