"""Training curves: what lies where, and repeated or missing events."""

import numpy as np

from experiments import figures
from tests.experiments.figures.rendered import pixels


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


def test_without_events_the_curves_are_an_empty_picture():
    for histories in ({}, {"C1_baseline": []}):
        assert pixels(figures.training_curves(histories)).shape[1] > 100
