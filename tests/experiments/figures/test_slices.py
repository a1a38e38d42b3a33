"""Slices with masks: sides, proportions, crops, columns and overlays."""

import dataclasses

import numpy as np
import pytest

from experiments import figures
from experiments.figures.slices import SIDE_MM
from experiments.results import table1_values
from tests.experiments.figures.rendered import centre_of, panel, pixels


def a_case(shape=(40, 30), spacing=(2.0, 2.0), predictions=("C1_baseline", "FL_global")):
    """Pancreas at the patient's right, in front; tumour at the left, behind.

    In RAS+, x increases to the right and y to the front.
    """
    truth = np.zeros(shape, np.uint8)
    truth[int(0.75 * shape[0]) : int(0.9 * shape[0]), int(0.7 * shape[1]) : int(0.9 * shape[1])] = 1
    truth[int(0.1 * shape[0]) : int(0.25 * shape[0]), int(0.1 * shape[1]) : int(0.3 * shape[1])] = 2
    image = np.full(shape, -1.0, np.float32)
    return figures.CaseSlice("C2, case 7", image, truth, dict.fromkeys(predictions, truth), spacing)


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    figure = figures.comparison([a_case()])
    truth = panel(pixels(figure), figure, 1)
    row, column = centre_of(truth, figures.PANCREAS, 0.12)
    assert row < 0.4 and column < 0.4
    row, column = centre_of(truth, figures.TUMOUR, 0.12)
    assert row > 0.6 and column > 0.6


def test_radiological_keeps_every_voxel_once():
    plane = np.arange(6).reshape(2, 3)  # plane[x, y]
    np.testing.assert_array_equal(figures.radiological(plane), [[5, 2], [4, 1], [3, 0]])


def test_a_panel_has_the_patients_proportions_whatever_the_spacing():
    figure = figures.comparison(
        [a_case(shape=(40, 30), spacing=(1.0, 3.0)), a_case(shape=(40, 30), spacing=(3.0, 1.0))]
    )
    first, second = (figure.axes[i].get_window_extent() for i in (0, 4))
    assert first.height / first.width == pytest.approx(90 / 40, rel=1e-6)
    assert second.height / second.width == pytest.approx(30 / 120, rel=1e-6)


def test_columns_follow_the_paper_and_a_missing_model_is_marked():
    whole, partial = (
        a_case(predictions=table1_values.MODELS[::-1]),
        a_case(predictions=("C2_baseline",)),
    )
    figure = figures.comparison(
        [
            whole,
            dataclasses.replace(
                partial, title="C1, case 1", captions={"C2_baseline": "P 0.42   T –"}
            ),
        ]
    )
    words = [text.get_text() for text in figure.texts]
    assert [word for word in words if word in ("CT", "truth", *table1_values.MODELS)] == [
        "CT",
        "truth",
        *table1_values.MODELS,
    ]
    assert {"C2, case 7", "C1, case 1", "P 0.42   T –"} <= set(words)
    assert (
        sum(text.get_text() == "not evaluated" for axes in figure.axes for text in axes.texts)
        == len(table1_values.MODELS) - 1
    )


def test_the_ct_panel_has_a_correct_scale_bar_and_no_mask():
    figure = figures.comparison([a_case(shape=(100, 80), spacing=(2.0, 2.0))])
    ct = figure.axes[0]
    (bar,) = [line for line in ct.lines if line.get_color() == "white"]
    assert np.ptp(bar.get_xdata()) == 50.0 and "5 cm" in [text.get_text() for text in ct.texts]
    assert ct.get_xlim() == (0, 200)  # millimetres
    assert centre_of(panel(pixels(figure), figure, 0), figures.PANCREAS) is None


def test_the_slice_with_most_tumour_is_chosen_else_with_most_pancreas():
    truth = np.zeros((6, 6, 5), np.uint8)
    assert figures.choose_slice(truth) == 2
    truth[:, :, 1] = 1
    truth[:2, :, 4] = 1
    assert figures.choose_slice(truth) == 1
    truth[0, 0, 3], truth[0, :2, 0] = 2, 2
    assert figures.choose_slice(truth) == 0


def test_a_cropped_slice_is_a_window_around_the_truth_within_the_volume():
    generator = np.random.default_rng(3)
    image = generator.normal(size=(50, 40, 6)).astype(np.float16)
    truth = np.zeros(image.shape, np.uint8)
    truth[44:49, 10:13, 4] = 1
    spacing = (SIDE_MM / 20, SIDE_MM / 10, 5.0)
    case = figures.slice_case("C1, case 1", image, truth, {"FL_global": truth}, spacing)
    # 20 voxels along x, ending at the border, and 10 along y about 11
    np.testing.assert_array_equal(case.image, image[30:50, 6:16, 4])
    np.testing.assert_array_equal(case.predictions["FL_global"], truth[30:50, 6:16, 4])
    whole = figures.slice_case("C1, case 1", image, truth, {}, (2.0, 4.0, 5.0))  # no larger
    np.testing.assert_array_equal(whole.truth, truth[:, :, 4])


def test_masks_on_another_grid_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"C2, case 7: FL_global has shape \(3, 3\), the slice \(40, 30\)"
    ):
        dataclasses.replace(a_case(), predictions={"FL_global": np.zeros((3, 3), np.uint8)})
    with pytest.raises(ValueError, match="no slice to draw"):
        figures.comparison([])
    with pytest.raises(ValueError, match=r"the image has \(4, 4, 4\) voxels, its mask \(4, 4, 5\)"):
        figures.overlay(np.zeros((4, 4, 4)), np.zeros((4, 4, 5), np.uint8), (1, 1, 1))


def test_overlay_shows_the_mask_in_axial_and_coronal_planes():
    mask = np.zeros((40, 30, 20), np.uint8)
    mask[28:36, 20:27, 14:19] = 1  # right, front, top
    figure = figures.overlay(np.full(mask.shape, -1.0, np.float32), mask, (2.0, 2.0, 3.0))
    picture = pixels(figure)
    assert centre_of(panel(picture, figure, 0), figures.PANCREAS) is None
    for index in (1, 2):
        row, column = centre_of(panel(picture, figure, index), figures.PANCREAS, 0.6)
        assert row < 0.4 and column < 0.4
    coronal = figure.axes[2].get_window_extent()
    assert coronal.height / coronal.width == pytest.approx(60 / 80, rel=1e-6)
