import copy
import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch

from c2fnas import genotype
from experiments import figures
from experiments.results import paper_table


def pixels(figure):
    """The rendered picture, float [rows, columns, 3] in 0 to 1."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255.0


def panel(picture, figure, index):
    """The part of the picture that the figure's axes of that index cover."""
    left, bottom, right, top = figure.axes[index].get_position().extents
    height, width = picture.shape[:2]
    return picture[
        round((1 - top) * height) : round((1 - bottom) * height),
        round(left * width) : round(right * width),
    ]


def centre_of(part, colour, tolerance=0.25):
    """Mean (row, column) of the pixels near a colour, as shares of the panel; None where there are
    none.
    """
    where = np.argwhere(np.abs(part - to_rgb(colour)).max(axis=-1) < tolerance)
    return tuple(where.mean(axis=0) / part.shape[:2]) if len(where) else None


def a_case(shape=(40, 30), spacing=(2.0, 2.0), predictions=("C1_baseline", "FL_global")):
    """Pancreas at the patient's right, in front; tumour at the left, behind (RAS+: x grows to the
    right, y to the front).
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
        a_case(predictions=paper_table.MODELS[::-1]),
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
    assert [word for word in words if word in ("CT", "truth", *paper_table.MODELS)] == [
        "CT",
        "truth",
        *paper_table.MODELS,
    ]
    assert {"C2, case 7", "C1, case 1", "P 0.42   T –"} <= set(words)
    assert (
        sum(text.get_text() == "not evaluated" for axes in figure.axes for text in axes.texts)
        == len(paper_table.MODELS) - 1
    )


def test_the_ct_panel_has_a_correct_scale_bar_and_no_mask():
    figure = figures.comparison([a_case(shape=(100, 80), spacing=(2.0, 2.0))])
    ct = figure.axes[0]
    (bar,) = [line for line in ct.lines if line.get_color() == "white"]
    assert np.ptp(bar.get_xdata()) == 50.0 and "5 cm" in [text.get_text() for text in ct.texts]
    assert ct.get_xlim() == (0, 200)  # millimetres
    assert centre_of(panel(pixels(figure), figure, 0), figures.PANCREAS) is None


@pytest.mark.parametrize("colour_vision", ["full", "red-blind", "green-blind", "none"])
def test_pancreas_and_tumour_can_be_told_apart_with_any_colour_vision(colour_vision):
    # Viénot et al. 1999 (dichromats, linear RGB); "none" sees luminance alone.
    matrix = {
        "full": np.eye(3),
        "red-blind": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "green-blind": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        "none": [[0.2126, 0.7152, 0.0722]] * 3,
    }[colour_vision]
    seen = [
        np.asarray(matrix) @ np.power(to_rgb(colour), 2.2)
        for colour in (figures.PANCREAS, figures.TUMOUR)
    ]
    assert np.abs(seen[0] - seen[1]).max() > 0.3


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
    case = figures.slice_case(
        "C1, case 1", image, truth, {"FL_global": truth}, (2.0, 4.0, 5.0), width_mm=40
    )
    # 40 mm are 20 voxels along x, ending at the border, and 10 along y about 11
    np.testing.assert_array_equal(case.image, image[30:50, 6:16, 4])
    np.testing.assert_array_equal(case.predictions["FL_global"], truth[30:50, 6:16, 4])
    whole = figures.slice_case("C1, case 1", image, truth, {}, (2.0, 4.0, 5.0), width_mm=None)
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
    figure = figures.overlay(
        np.full(mask.shape, -1.0, np.float32), mask, (2.0, 2.0, 3.0), "scan.nii.gz"
    )
    picture = pixels(figure)
    assert centre_of(panel(picture, figure, 0), figures.PANCREAS) is None
    for index in (1, 2):
        row, column = centre_of(panel(picture, figure, index), figures.PANCREAS, 0.6)
        assert row < 0.4 and column < 0.4
    coronal = figure.axes[2].get_window_extent()
    assert coronal.height / coronal.width == pytest.approx(60 / 80, rel=1e-6)


def per_case(model, site, number, pancreas, tumour=None):
    volumes = {
        "volume_ml_pancreas": 70.0,
        "volume_ml_tumour": 0.0,
        "truth_ml_pancreas": 75.0,
        "truth_ml_tumour": 9.0,
    }
    return {
        "model": model,
        "site": site,
        "case": number,
        "grid": "training",
        "dice_pancreas": pancreas,
        "dice_tumour": tumour,
        **volumes,
    }


def test_the_table_figure_draws_means_cases_and_the_papers_marks():
    rows = [
        per_case("C1_baseline", "C1", 1, 0.75),
        per_case("C1_baseline", "C1", 2, 0.25),
        per_case("C2_baseline", "C2", 1, 0.5, 0.25),
    ]
    figure = figures.table_figure(rows, title="Table 1")
    c1 = figure.axes[0]
    # C2_baseline has no C1 case and therefore no bar
    assert [bar.get_width() for bar in c1.patches] == [50.0]
    assert "no cases" in [text.get_text() for text in c1.texts]
    marks = {tuple(line.get_xdata()) for line in c1.lines if len(line.get_xdata())}
    assert marks == {(75.0, 25.0), (81.5,)}
    assert [tick.get_text() for tick in c1.get_yticklabels()] == ["C1_baseline", "C2_baseline"]
    assert figures.table_figure([]).axes  # nothing to show is no crash


def history(model, steps_per_epoch, rounds=3, epochs=2):
    step, events = 0, []
    for number in range(1, rounds + 1):
        if "FL" in model:
            events.append(
                {"event": "global_score", "model": model, "step": step, "dice": 0.1 * number}
            )
        for _ in range(epochs):
            step += steps_per_epoch
            events.append(
                {
                    "event": "epoch",
                    "model": model,
                    "round": number,
                    "step": step,
                    "loss": 1.0 / step,
                    "kl": 0.5,
                    "patches_per_second": 3.0,
                }
            )
        events.append(
            {
                "event": "validation",
                "model": model,
                "round": number,
                "step": step,
                "dice": 0.2 * number,
            }
        )
    return events


def test_curves_of_sites_with_different_epoch_lengths_align_at_the_rounds():
    histories = {"C1_FL_local": history("C1_FL_local", 5), "C2_baseline": history("C2_baseline", 8)}
    figure = figures.training_curves(histories)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["C1_FL_local"].get_xydata(), [[1, 0.2], [2, 0.4], [3, 0.6]])
    np.testing.assert_allclose(lines["C2_baseline"].get_xydata(), [[1, 0.2], [2, 0.4], [3, 0.6]])
    np.testing.assert_allclose(
        lines["global model at C1"].get_xydata(), [[0, 0.1], [1, 0.2], [2, 0.3]]
    )
    assert [axes.get_title(loc="left") for axes in figure.axes[1:]] == ["Loss", "KL (VAE)"]
    for line, steps in zip(figure.axes[1].lines, (5, 8), strict=True):
        np.testing.assert_allclose(
            line.get_xydata(), [[e / 2, 1 / (e * steps)] for e in range(1, 7)]
        )


def test_an_epoch_repeated_after_a_restart_counts_once_and_unknown_events_are_ignored():
    events = history("C1_baseline", 5)
    again = [
        {"event": "started"},
        *events[:2],
        {**events[1], "loss": 7.0},
        *events[2:],
        {"event": "note", "step": "x"},
    ]
    line = figures.training_curves({"C1_baseline": again}).axes[1].lines[0]
    np.testing.assert_allclose(line.get_ydata()[:3], [1 / 5, 7.0, 1 / 15])


def test_without_events_curves_and_timeline_are_empty_pictures():
    for figure in (
        figures.training_curves({}),
        figures.training_curves({"C1_baseline": []}),
        figures.federation_timeline([]),
    ):
        assert pixels(figure).shape[1] > 100


def test_the_timeline_is_derived_from_the_servers_events():
    steps = [
        (0, "login", {}),
        (10, "pulled", {"model": "round_000", "seconds": 2}),
        (40, "scored", {"model": 0}),
        (100, "pushed", {"round": 1, "seconds": 3}),
        (130, "pulled", {"model": "round_001", "seconds": 1}),
        (200, "login", {}),
        (240, "pulled", {"model": "FL_global", "seconds": 0.0}),
        (300, "rows", {"rows": 4}),
    ]
    events = [
        {"time": 1000.0 + t, "event": name, "site": "C1", **fields} for t, name, fields in steps
    ]
    events += [
        {"time": 1000.0, "event": "round_opened", "round": 1},
        {"time": 1104.0, "event": "aggregated", "round": 1},
        {"event": "odd"},
    ]
    figure = figures.federation_timeline(events)
    colours = {to_rgb(colour): name for name, colour in figures.ACTIVITY_COLOURS.items()}
    bars = [
        (colours[bar.get_facecolor()[:3]], bar.get_x() * 60, (bar.get_x() + bar.get_width()) * 60)
        for c in figure.axes[0].containers
        for bar in c
    ]
    expected = [
        ("waits", 0, 8),
        ("sends or receives", 8, 10),
        ("scores", 10, 40),
        ("trains", 40, 97),
        ("sends or receives", 97, 100),
        ("waits", 100, 129),
        ("sends or receives", 129, 130),
        ("waits", 200, 240),
        ("evaluates", 240, 300),
    ]
    assert [bar[0] for bar in bars] == [bar[0] for bar in expected]
    np.testing.assert_allclose([bar[1:] for bar in bars], [bar[1:] for bar in expected], atol=1e-6)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["server", "C1"]


def test_the_texts_of_the_overview_do_not_overlap():
    figure = figures.overview()
    figure.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.axes[0].texts]
    assert {"Hospital C1", "Hospital C2", "Server", "FL_global", "Table 1"} <= {
        text for text, _ in boxes
    }
    overlaps = [
        (a, b)
        for (a, box), (b, other) in itertools.combinations(boxes, 2)
        if box.overlaps(other) and not {a, b} & set("12345")
    ]
    assert overlaps == []


def test_the_genotype_figure_shows_all_cells_and_inputs():
    architecture = genotype.load("c2fnas")
    figure = figures.genotype_figure(architecture)
    words = [text.get_text() for text in figure.axes[0].texts]
    # twelve cells, three classes
    assert [word for word in words if word.isdigit()] == [
        *(str(n) for n in range(1, 13)),
        "3",
    ]
    # an arrow for every input, from stem to stem, two into the end and one out of it
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == sum(len(cell.inputs) for cell in architecture.cells) + 4
    assert "19,559,360 convolution weights, 189.8 GMAC" in figure.texts[0].get_text()


def test_an_operation_that_is_not_in_the_paper_gets_a_colour_and_its_name(monkeypatch):
    architecture = copy.deepcopy(genotype.load("c2fnas"))
    cells = list(architecture.cells)
    # set directly: the figure needs only a colour for it, the genotype would need kernels
    object.__setattr__(cells[3], "op", "depthwise")
    object.__setattr__(architecture, "cells", tuple(cells))
    monkeypatch.setattr(type(architecture), "conv_weights", lambda self: 0)
    monkeypatch.setattr(type(architecture), "macs", lambda self, size: 0)
    figure = figures.genotype_figure(architecture)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (
        "depthwise" in legend
        and len({patch.get_facecolor() for patch in figure.legends[0].get_patches()})
        == len(legend) - 1
    )


def test_a_recorded_round_is_drawn_message_by_message():
    events = [
        {"time": 10.0, "event": "round_opened", "round": 1},
        {"time": 11.0, "event": "pulled", "site": "C1", "model": "round_000", "bytes": 2**20},
        {"time": 12.0, "event": "pulled", "site": "C2", "model": "round_000", "bytes": 2**20},
        {"time": 15.0, "event": "scored", "site": "C1", "model": 0, "scores": {"dice": 0.25}},
        {"time": 30.0, "event": "pushed", "site": "C1", "round": 1, "bytes": 3 * 2**20},
        {"time": 31.0, "event": "aggregated", "round": 1, "sites": {"C1": 18, "C2": 20}},
        {"time": 40.0, "event": "pulled", "site": "C1", "model": "round_001", "bytes": 2**20},
    ]
    words = [text.get_text() for text in figures.round_figure(events).axes[0].texts]
    assert {
        "C1",
        "C2",
        "server",
        "global model, 1.0 MiB",
        "its score, Dice 0.25",
        "weights after training, 3.0 MiB",
        "20.0 s",
    } <= set(words)
    assert (
        "mean of the weights; cases: C1 18, C2 20" in words
        and words.count("global model, 1.0 MiB") == 2
    )
    with pytest.raises(ValueError, match="round 7 is not in the log; it has 1"):
        figures.round_figure(events, 7)


def test_no_figure_needs_a_display_or_uses_pyplot():
    code = (
        "import sys; from experiments import figures; "
        "figures.overview().savefig(__import__('io').BytesIO()); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, env={"PATH": "", "MPLBACKEND": "TkAgg"}
        ).returncode
        == 0
    )
