import numpy as np
import pytest

from federated.aggregation.weighted_mean import weighted_mean


def test_weighted_mean_by_hand():
    mean = weighted_mean([np.array([1.0, 5.0]), np.array([5.0, 1.0])], [30, 10])
    np.testing.assert_array_equal(mean, [2.0, 4.0])  # (30*1 + 10*5)/40, (30*5 + 10*1)/40


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_mean_agrees_with_numpys_average(dtype):
    arrays = np.random.default_rng(1).normal(size=(4, 150)).astype(dtype)
    weights = [252, 286, 7, 91]
    mean = weighted_mean(arrays, weights)
    assert mean.dtype == np.float64
    expected = np.average(arrays.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(mean, expected, rtol=1e-14, atol=1e-14)


def test_one_array_alone_is_its_own_mean_bit_for_bit():
    alone = np.random.default_rng(9).normal(size=150).astype(np.float32)
    mean = weighted_mean([alone], [2**28 - 1])
    np.testing.assert_array_equal(mean.astype(np.float32), alone)


def test_accumulation_does_not_lose_a_small_value_beside_a_large_one():
    # In float32, 16777216 + 1 is 16777216.
    mean = weighted_mean([np.float32([16777216.0]), np.float32([2.0])], [1, 1])
    assert mean == 8388609.0


def test_arrays_are_asked_for_one_after_the_other():
    alive = []

    def arrays():
        for value in (1.0, 2.0, 3.0):
            alive.append(value)
            yield np.array([value])
            alive.remove(value)
            assert not alive

    assert weighted_mean(arrays(), [1, 1, 1]) == 2.0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_arrays_than_of_weights_is_refused(count):
    with pytest.raises(ValueError):
        weighted_mean([np.ones(2)] * count, [1, 1] if count else [])
