"""Free-response curves as a figure."""

from experiments import figures
from experiments.results import patients
from tests.experiments.results.test_patients import ROWS


def test_the_picture_has_a_line_a_model_and_a_mark_for_its_gate():
    gated = [dict(line, model="FL_global_gated") for line in ROWS]
    figure = figures.froc_figure(
        patients.of_rows([*ROWS, *gated, *[dict(line, model="C1_baseline") for line in ROWS]])
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "C1_baseline",
        "FL_global",
    ]
    (axes,) = figure.axes
    marks = [line.get_marker() for line in axes.lines if line.get_marker() in "os"]
    assert sorted(marks) == ["o", "o", "s"]
