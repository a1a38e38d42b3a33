import math

import numpy as np
import pytest

from c2fnas.scores import case_scores, metrics

SPACING = (1.0, 2.0, 3.0)


def box(value, *spans, shape=(10, 9, 8)):
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*span) for span in spans)] = value
    return mask


def area_of_a_box_mm2(*edges_mm):
    """Returns the area by marching cubes of a box with these edges between outermost voxel centres.

    Half a voxel beyond its faces it ends in 4 bevels along each axis and 8 triangular corners.
    """
    (a, b, c), (x, y, z) = edges_mm, (spacing / 2 for spacing in SPACING)
    faces = 2 * (a * b + a * c + b * c)
    bevels = 4 * (a * math.hypot(y, z) + b * math.hypot(x, z) + c * math.hypot(x, y))
    return faces + bevels + 8 * math.hypot(x * y, x * z, y * z) / 2


def test_scores_by_hand():
    truth = box(1, (2, 6), (2, 6), (2, 6))
    prediction = box(1, (3, 7), (2, 6), (2, 6))
    prediction[0, 8, 7] = 2
    prediction[9, 0, 0] = 2
    scores = case_scores.compare(prediction, truth, SPACING, tolerance_mm=1.0)
    organ = scores[1]
    assert organ.dice == pytest.approx(2 * 48 / 128)
    assert organ.hd95_mm == pytest.approx(1.0)
    assert organ.nsd == 1.0  # shifted by 1 mm, no further than the tolerance
    assert (
        organ.volume_ml == organ.truth_volume_ml == pytest.approx(64 * 6 / 1000)
        and organ.volume_error_ml == 0
    )
    assert (organ.components, scores[2].components) == (1, 2)
    assert (organ.found, organ.false_components) == (1, 0) and (
        scores[2].found,
        scores[2].false_components,
    ) == (0, 2)
    assert organ.surface_volume_ratio == pytest.approx(area_of_a_box_mm2(3, 6, 9) / (64 * 6))
    assert case_scores.compare(prediction, truth, SPACING, tolerance_mm=0.5)[1].nsd < 1


def test_a_rough_tumour_has_more_surface_for_its_volume():
    x, y, z = np.indices((24, 24, 24)) - 12
    smooth = (x**2 + y**2 + z**2 <= 64).astype(np.uint8) * 2
    rough = smooth * (np.random.default_rng(0).random(smooth.shape) > 0.2).astype(np.uint8)
    ratios = [
        case_scores.compare(mask, smooth, (1, 1, 1))[2].surface_volume_ratio
        for mask in (smooth, rough)
    ]
    assert ratios[1] > 1.5 * ratios[0]


def test_a_class_in_neither_mask_has_no_score():
    empty = np.zeros((4, 4, 4), np.uint8)
    scores = case_scores.compare(empty, empty, SPACING)[2]
    assert (scores.dice, scores.hd95_mm, scores.nsd, scores.volume_error_ml) == (
        None,
        None,
        None,
        None,
    )
    assert (scores.volume_ml, scores.components, scores.surface_volume_ratio) == (0, 0, None)


@pytest.mark.parametrize("which", [0, 1])
def test_a_class_in_only_one_mask_gets_the_worst_scores(which):
    """An invented tumour in a healthy patient, and a missed one.

    MONAI drops both cases from a mean; surface-distance returns inf and NaN.
    """
    pair = [np.zeros((10, 9, 8), np.uint8), box(2, (2, 4), (2, 4), (2, 4))]
    scores = case_scores.compare(pair[which], pair[1 - which], SPACING)[2]
    assert (scores.dice, scores.nsd) == (0, 0)
    assert scores.hd95_mm == pytest.approx(math.hypot(9 * 1, 8 * 2, 7 * 3))
    assert scores.volume_error_ml == pytest.approx((1 if which else -1) * 8 * 6 / 1000)


@pytest.mark.parametrize("order", ["C", "F"])
def test_dice_is_that_of_metrics_and_no_box_or_memory_order_matters(order):
    random = np.random.default_rng(2)
    prediction, truth = np.zeros((2, 12, 11, 10), np.uint8)
    prediction[3:9, 2:8, 3:7], truth[4:10, 2:8, 2:7] = (
        random.integers(0, 3, (6, 6, 4)),
        random.integers(0, 3, (6, 6, 5)),
    )
    scores = case_scores.compare(
        np.asarray(prediction, order=order), np.asarray(truth, order=order), SPACING
    )
    cropped = case_scores.compare(prediction[3:10, 2:8, 2:7], truth[3:10, 2:8, 2:7], SPACING)
    for value, dice in metrics.dice(prediction, truth).items():
        assert scores[value].dice == pytest.approx(dice)
        assert scores[value].hd95_mm == pytest.approx(cropped[value].hd95_mm)
        assert scores[value].nsd == pytest.approx(cropped[value].nsd)
        assert scores[value].volume_ml == pytest.approx(
            (prediction == value).sum() * np.prod(SPACING) / 1000.0
        )


def test_masks_that_cannot_be_compared():
    with pytest.raises(ValueError, match="the same grid"):
        case_scores.compare(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8), SPACING)
    with pytest.raises(ValueError, match="truth holds the values 0 to 3"):
        case_scores.compare(
            np.zeros((2, 2, 2), np.uint8), np.eye(2, dtype=np.uint8)[None].repeat(2, 0) * 3, SPACING
        )
