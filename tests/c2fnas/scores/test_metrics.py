import numpy as np
import pytest

from c2fnas.scores import metrics


def _mask(*values):
    return np.array(values, dtype=np.uint8).reshape(1, 2, -1)


def test_dice_by_hand():
    prediction = _mask(0, 1, 1, 2, 0, 0)
    truth = _mask(0, 1, 2, 2, 1, 0)
    # class 1: 1 common of 2 + 2 voxels; class 2: 1 common of 1 + 2
    assert metrics.dice(prediction, truth) == {1: pytest.approx(2 / 4), 2: pytest.approx(2 / 3)}


def test_the_rule_of_absent_classes():
    empty, tumour = _mask(0, 0, 1, 1), _mask(0, 2, 1, 1)
    assert metrics.dice(empty, empty) == {1: 1.0, 2: None}  # in neither: no score
    assert metrics.dice(tumour, empty)[2] == 0.0  # predicted only
    assert metrics.dice(empty, tumour)[2] == 0.0  # missed


def test_dice_agrees_with_a_loop_over_classes_beyond_one_block(monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK_VOXELS", 7)
    random = np.random.default_rng(1)
    prediction, truth = random.integers(0, 3, (2, 5, 6, 4), dtype=np.uint8)
    for value, score in metrics.dice(prediction, truth).items():
        overlap = np.logical_and(prediction == value, truth == value).sum()
        assert score == pytest.approx(
            2 * overlap / ((prediction == value).sum() + (truth == value).sum())
        )


def test_dice_of_a_transposed_view_is_that_of_its_voxels():
    random = np.random.default_rng(2)
    prediction, truth = random.integers(0, 3, (2, 3, 4, 5), dtype=np.uint8)
    assert metrics.dice(prediction.T, truth.T) == metrics.dice(prediction, truth)


def test_summary_counts_a_class_only_where_the_site_has_it():
    healthy = _mask(0, 1, 1, 0)
    ill = _mask(0, 1, 2, 0)
    # Pancreas 1.0 and 2/3 over two cases; tumour 0 (predicted in the healthy case) and 0 (missed).
    result = metrics.dice_summary([(_mask(0, 1, 1, 2), healthy), (_mask(0, 1, 1, 0), ill)])
    assert result == {
        "dice_pancreas": pytest.approx((1.0 + 2 / 3) / 2),
        "cases_pancreas": 2,
        "dice_tumour": 0.0,
        "cases_tumour": 2,
        "dice": pytest.approx((1.0 + 2 / 3) / 4),
        "cases": 2,
    }


def test_summary_of_a_site_without_tumours_is_its_pancreas():
    result = metrics.dice_summary([(_mask(0, 1, 2, 2), _mask(0, 1, 1, 0))])
    assert result == {
        "dice_pancreas": pytest.approx(2 / 3),
        "cases_pancreas": 1,
        "dice": pytest.approx(2 / 3),
        "cases": 1,
    }


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8), r"\(2, 2, 2\).*\(2, 2, 3\)"),
        (
            np.full((2, 2, 2), 3, np.uint8),
            np.zeros((2, 2, 2), np.uint8),
            "prediction holds the values 3 to 3",
        ),
        (
            np.zeros((2, 2, 2), np.uint8),
            np.full((2, 2, 2), -1, np.int16),
            "truth holds the values -1 to -1",
        ),
        (np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint8), "prediction is float32"),
    ],
)
def test_masks_that_cannot_be_compared(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        metrics.dice(prediction, truth)


def test_a_summary_needs_cases_with_labels():
    with pytest.raises(ValueError, match="none of 0 cases"):
        metrics.dice_summary([])
    with pytest.raises(ValueError, match="none of 1 cases"):
        metrics.dice_summary([(_mask(0, 1), _mask(0, 0))])
