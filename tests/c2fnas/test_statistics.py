import numpy as np
import pytest

from c2fnas import statistics


def test_cases_without_a_score_do_not_count():
    mean = statistics.mean([0.5, None, 0.7, None])
    assert mean.value == pytest.approx(0.6) and mean.cases == 2
    assert statistics.mean([None]) == statistics.Mean(None, None, None, 0)
    assert statistics.mean([0.4]) == statistics.Mean(0.4, None, None, 1)


def test_equal_scores_have_no_spread_and_the_interval_repeats():
    assert statistics.mean([0.5] * 9) == statistics.Mean(0.5, 0.5, 0.5, 9)
    scores = list(np.random.default_rng(1).random(30))
    assert statistics.mean(scores) == statistics.mean(scores)
    assert statistics.mean(scores) != statistics.mean(scores, seed=1)


def test_the_interval_is_that_of_theory_for_normal_scores():
    scores = np.random.default_rng(2).normal(0.7, 0.1, 200)
    mean = statistics.mean(scores)
    half = 1.96 * scores.std() / np.sqrt(200)
    assert mean.low == pytest.approx(mean.value - half, abs=0.1 * half) and mean.high == pytest.approx(mean.value + half, abs=0.1 * half)


def test_two_scores_by_hand():
    # resampled means: both 0 with 1/4, both 1 with 1/4, else 1/2
    mean = statistics.mean([0.0, 1.0])
    assert (mean.value, mean.low, mean.high) == (0.5, 0.0, 1.0)
