import dataclasses

import numpy as np
import pytest
from scipy import stats

from federated.privacy import percentile, sparse_vector
from federated.privacy.policy import PrivacyPolicy
from federated.privacy.sparse_vector import SparseVector

RNG = np.random.default_rng(6)
WITH = SparseVector(answers=100, gamma=1.0, threshold=0.5, epsilon1=0.5, epsilon2=2.0, epsilon3=4.0)
SHARP = dataclasses.replace(WITH, epsilon1=1e9, epsilon2=1e9, epsilon3=1e9)


def test_parameters_by_hand():
    """Lyu et al. 2017, Algorithm 7: the scales are D/e1, 2cD/e2 and cD'/e3.

    D is gamma and D' is 2 gamma.
    """
    assert WITH.epsilon == 6.5
    assert WITH.threshold_scale == 1.0 / 0.5
    assert WITH.query_scale == 2 * 100 * 1.0 / 2.0
    assert WITH.answer_scale == 100 * 2.0 / 4.0
    assert sparse_vector.lyu_epsilon2(0.1, 500_000) == pytest.approx(0.1 * 1e6 ** (2 / 3))


def test_with_hardly_any_noise_the_values_above_the_threshold_are_shared_as_they_are():
    values = np.concatenate([RNG.uniform(0.6, 3.0, 60), RNG.uniform(-3.0, -0.6, 40)])
    values = np.concatenate([values, RNG.uniform(-0.4, 0.4, 900)])
    found, answers = sparse_vector.shared(values, SHARP)
    assert found[:100].all() and not found[100:].any()
    np.testing.assert_allclose(answers[:100], np.clip(values[:100], -1.0, 1.0), atol=1e-5)
    assert not answers[100:].any()


@pytest.mark.parametrize("size", [150, 1000, 5000])
def test_never_more_values_are_shared_than_asked_for(size):
    for _ in range(5):
        found, answers = sparse_vector.shared(np.full(size, 0.9), WITH)
        assert found.sum() == 100 and (np.abs(answers) <= 1.0).all()


def test_a_search_that_finds_nothing_ends():
    found, answers = sparse_vector.shared(np.zeros(50), SHARP)
    assert not found.any() and not answers.any()


def test_a_model_smaller_than_the_number_of_answers_is_shared_whole():
    found, _ = sparse_vector.shared(np.ones(30), SHARP)
    assert found.all()


def test_the_noise_of_an_answer_is_laplace_of_the_scale_by_hand():
    with_ = SparseVector(
        answers=100_000, gamma=1e6, threshold=0.0, epsilon1=1e9, epsilon2=1e9, epsilon3=2e11
    )  # scale 100,000 * 2e6 / 2e11 = 1
    values = np.full(100_000, 5.0)
    found, answers = sparse_vector.shared(values, with_)
    assert found.sum() > 99_000
    assert stats.kstest(answers[found] - 5.0, stats.laplace.cdf).pvalue > 1e-6


def test_the_selection_is_random_where_the_noise_is_large():
    """The size of a value then hardly matters: an epsilon that protects tells nothing."""
    values = np.concatenate([np.ones(5000), np.zeros(5000)])
    found, _ = sparse_vector.shared(values, dataclasses.replace(WITH, epsilon2=0.01, answers=5000))
    assert 2200 < found[:5000].sum() < 2800


def test_the_order_of_the_questions_does_not_favour_the_first_arrays():
    found, _ = sparse_vector.shared(np.full(10_000, 0.9), dataclasses.replace(WITH, answers=1000))
    assert 400 < found[:5000].sum() < 600


def test_what_arrives_at_the_setting_of_published_programs_is_not_the_update():
    """The numbers of docs/privacy-policy.md, on normally distributed changes."""
    change = RNG.normal(0, 1e-5, 1_000_000)
    published = {"gamma": 1e-5, "epsilon3": 0.1 * 100_000, "budget": 1e6}
    policy = PrivacyPolicy(filter="svt", **published).sparse_vector(change.size)
    _, answers = sparse_vector.shared(change, policy)
    largest = np.where(percentile.largest(change, 75.0), change, 0.0)
    cosines = [
        float(change @ sent) / np.linalg.norm(change) / np.linalg.norm(sent)
        for sent in (answers, largest)
    ]
    # The first varies by 0.001 from draw to draw.
    assert cosines == [pytest.approx(0.01, abs=0.008), pytest.approx(0.85, abs=0.005)]
    assert SparseVector(700_000, 1e-5, 0.0, 0.1, 0.1, 0.1 * 700_000).epsilon > 70_000
