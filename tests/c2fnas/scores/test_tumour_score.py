import numpy as np
import pytest
import scipy.special

from c2fnas.scores.tumour_score import HIGHEST, TumourScore

SPACING = (5.0, 5.0, 4.0)  # 10 voxels are a millilitre


def logits(seed, shape=(9, 8, 7)):
    return np.random.default_rng(seed).normal(0, 3, (*shape, 3)).astype(np.float32)


def slowly(values):
    """Returns the mean margin of the ten most certain tumour voxels, voxel by voxel."""
    margins = []
    for background, pancreas, tumour in values.reshape(-1, 3).astype(float):
        if tumour > max(background, pancreas):
            margins.append(tumour - max(background, pancreas))
    return sum(sorted(margins)[-10:]) / 10


def of_whole(values):
    score = TumourScore(SPACING)
    score.add(values.argmax(-1).astype(np.uint8), values)
    return score.value


def test_it_is_the_mean_margin_of_the_most_certain_millilitre():
    values = logits(1)
    assert of_whole(values) == pytest.approx(slowly(values), rel=1e-6)


@pytest.mark.parametrize("cuts", [(1,), (4,), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_it_does_not_depend_on_where_the_scan_is_cut(cuts):
    values, score = logits(2), TumourScore(SPACING)
    for part in np.split(values, cuts):
        score.add(part.argmax(-1).astype(np.uint8), part)
    assert score.value == of_whole(values)


def test_probabilities_have_the_same_margins():
    values, score = logits(3), TumourScore(SPACING)
    score.add_probabilities(
        values.argmax(-1).astype(np.uint8), scipy.special.softmax(values, axis=-1)
    )
    assert score.value == pytest.approx(of_whole(values), rel=1e-4)


def test_it_is_zero_where_nothing_is_marked_and_small_where_little_is():
    values = np.zeros((6, 6, 6, 3), np.float32)
    values[..., 0] = 4.0
    assert of_whole(values) == 0.0
    values[2, 2, 2:4, 2] = 9.0  # two voxels of margin 5: eight of the ten count 0
    assert of_whole(values) == pytest.approx(2 * 5.0 / 10)


def test_a_network_that_has_diverged_gives_the_highest_score_and_no_larger_one():
    values = np.full((3, 3, 3, 3), -3e38, np.float32)
    values[..., 2] = 3e37
    with np.errstate(over="ignore"):
        assert of_whole(values) == HIGHEST


def test_voxels_of_more_than_a_millilitre_count_one():
    score = TumourScore((20.0, 20.0, 20.0))
    values = np.array([0.0, 0.0, 3.0, 0.0, 0.0, 7.0], np.float32).reshape(2, 1, 1, 3)
    score.add(np.full((2, 1, 1), 2, np.uint8), values)
    assert score.value == 7.0
