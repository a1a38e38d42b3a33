"""The pictures of a search show its numbers."""

import numpy as np

from experiments import figures
from tests.experiments.results.test_search_table import FOUND


def test_the_pareto_picture_shows_each_candidate_in_points_and_gmac():
    figure = figures.pareto_figure(FOUND, published_gmac=2.5)
    (axes,) = figure.axes
    dots = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections[:2]])
    expected = sorted([one.macs / 1e9, 100 * one.score] for one in FOUND)
    np.testing.assert_allclose(sorted(dots.tolist()), expected)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:3] == ["evolution, 4 scored", "random, 1 scored", "Pareto front"]
    assert "published" in [text.get_text() for text in axes.texts]


def test_the_progress_picture_names_generations_and_ends_at_the_best():
    figure = figures.progress_figure(FOUND)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.texts] == ["generation 1", "generation 2"]
    steps = [line for line in axes.lines if line.get_label().startswith("best so far")]
    np.testing.assert_allclose([line.get_ydata()[-1] for line in steps], [60.0, 55.0])


def test_the_picture_of_ranks_shows_each_training():
    figure = figures.ranks_figure(
        {"a": 0.5, "b": 0.4}, {"a": [0.6, 0.7], "b": [0.5, 0.3]}, caption="tau 1"
    )
    (axes,) = figure.axes
    dots = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])
    assert {(50.0, 60.0), (50.0, 70.0), (50.0, 65.0)} <= set(map(tuple, dots.round(6).tolist()))
    assert axes.get_title(loc="left") == "tau 1"
