import numpy as np
import pytest
from scipy import stats

from federated.privacy import noise

COUNT = 300_000


@pytest.mark.parametrize(
    ("draw", "law"), [(noise.gaussian, stats.norm), (noise.laplace, stats.laplace)]
)
def test_noise_has_the_distribution_that_it_is_named_after(draw, law):
    values = draw(COUNT)
    assert values.shape == (COUNT,) and values.dtype == np.float64
    # Fails once in a million runs.
    assert stats.kstest(values, law.cdf).pvalue > 1e-6
    np.testing.assert_allclose(values.std(), law.std(), rtol=0.02)
    assert abs(np.corrcoef(values[::2], values[1::2])[0, 1]) < 0.02


@pytest.mark.parametrize("draw", [noise.gaussian, noise.laplace])
def test_noise_is_never_drawn_twice_whatever_the_seed(draw):
    np.random.seed(1)  # noqa: NPY002 - what a run's seed sets
    first = draw(100)
    np.random.seed(1)  # noqa: NPY002
    assert not np.isin(first, draw(100)).any()


@pytest.mark.parametrize("count", [0, 1, 7, 2**18, 2**18 + 1])
def test_any_number_of_values_can_be_drawn(count):
    assert noise.gaussian(count).size == noise.laplace(count).size == count


def test_the_tails_have_no_gaps():
    """With all bits 0, the smallest value of the uniform distribution is about 2^-129."""
    assert 88.0 < abs(noise.laplace(1, bytes)[0]) < 90.0
    assert 13.0 < abs(noise.gaussian(1, bytes)[0]) < 14.0
    assert np.abs(noise.laplace(1, lambda count: b"\xff" * count)[0]) == 0.0


@pytest.mark.parametrize("scale", [1e-6, 0.75, 1.0, 3.0, 1e5])
def test_a_grid_is_a_power_of_two_that_depends_on_the_scale_only(scale):
    cell = noise.grid(scale, 30)
    assert np.frexp(cell)[0] == 0.5
    assert 2.0**-31 < cell / scale <= 2.0**-30


def test_a_value_plus_noise_is_a_whole_number_of_cells_whatever_the_value():
    """So no low bit of a sum shows which value it was made from (Mironov 2012)."""
    cell = noise.grid(1.0, 30)
    for value in (0.0, 1 / 3, 0.1):
        total = noise.on_grid(np.full(1000, value), cell) + noise.on_grid(
            noise.gaussian(1000), cell
        )
        assert (np.mod(total, 1.0) == 0.0).all()
        # Without the grid, most sums have bits below it.
        assert np.mod((value + noise.gaussian(1000)) / cell, 1.0).any()
