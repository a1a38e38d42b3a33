import numpy as np
import pytest
from scipy import stats

from federated.privacy import gaussian, noise

RNG = np.random.default_rng(4)


def test_what_is_released_is_the_clipped_change_plus_normal_noise():
    change = RNG.normal(size=200_000)
    change *= 30.0 / np.linalg.norm(change)
    released = gaussian.noisy(change, clip_norm=3.0, noise=0.5)
    added = released - change / 10.0  # clipped from norm 30 to 3
    assert stats.kstest(added / 1.5, stats.norm.cdf).pvalue > 1e-6  # 0.5 times 3
    assert abs(np.corrcoef(added, change)[0, 1]) < 0.02


def test_without_noise_bits_the_clipped_change_is_left(monkeypatch):
    monkeypatch.setattr(gaussian, "gaussian", lambda count, bits: np.zeros(count))
    change = np.array([3.0, -4.0])
    released = gaussian.noisy(change, clip_norm=1.0, noise=1.0)
    np.testing.assert_allclose(released, [0.6, -0.8], atol=1e-8)
    assert np.linalg.norm(released) <= 1.0


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_rounding_to_the_grid_never_takes_the_norm_above_the_limit(monkeypatch, size):
    """Otherwise two neighbours could differ by more than twice the clipping norm."""
    monkeypatch.setattr(gaussian, "gaussian", lambda count, bits: np.zeros(count))
    for _ in range(5):
        released = gaussian.noisy(RNG.normal(size=size) * 10, clip_norm=1.0, noise=100.0)
        assert np.linalg.norm(released) <= 1.0


def test_every_released_value_lies_on_a_grid_that_only_the_noise_decides():
    cell = noise.grid(0.3 * 2.0, 30)
    for scale in (1e-9, 1.0, 1e9):
        released = gaussian.noisy(RNG.normal(size=1000) * scale, clip_norm=2.0, noise=0.3)
        assert (np.mod(released / cell, 1.0) == 0.0).all()


def test_noise_that_is_too_coarse_for_the_number_of_values_is_refused():
    with pytest.raises(ValueError, match="noise 1e\\+09 on 1000 values is too coarse"):
        gaussian.noisy(np.ones(1000), clip_norm=1.0, noise=1e9)


def test_all_patients_together_move_a_change_no_further_than_one(monkeypatch):
    """The bound is on the whole update, whatever the training did with however many patients."""
    monkeypatch.setattr(gaussian, "gaussian", lambda count, bits: np.zeros(count))
    one, opposite = RNG.normal(size=500) * 1e6, RNG.normal(size=500) * 1e6
    for other in (opposite, -one, np.zeros(500)):
        both = [gaussian.noisy(change, clip_norm=0.3, noise=2.0) for change in (one, other)]
        assert np.linalg.norm(both[0] - both[1]) <= gaussian.REACH * 0.3
