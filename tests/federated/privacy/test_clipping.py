import numpy as np
import pytest

from federated.privacy import clipping

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1.0, 1e200])
def test_a_norm_is_that_of_numpy_in_extended_precision(scale):
    change = RNG.normal(size=5000) * scale
    expected = np.sqrt(np.sum((change.astype(np.longdouble)) ** 2))
    np.testing.assert_allclose(clipping.norm(change), float(expected), rtol=1e-13)


def test_by_hand():
    np.testing.assert_allclose(
        clipping.clipped(np.array([3.0, 4.0]), 1.0), [0.6, 0.8], rtol=2e-9
    )  # norm 5
    short = np.array([0.3, 0.4])
    assert clipping.clipped(short, 1.0) is short
    assert clipping.norm(np.zeros(3)) == 0.0 and clipping.norm(np.zeros(0)) == 0.0


@pytest.mark.parametrize("limit", [1e-3, 0.1, 7.0])
def test_the_norm_never_exceeds_the_limit(limit):
    for size in (1, 10, 100_000):
        clipped = clipping.clipped(RNG.normal(size=size) * 100, limit)
        exact = np.sqrt(np.sum(clipped.astype(np.longdouble) ** 2))
        assert limit * (1 - 1e-8) < exact <= limit or size == 1
