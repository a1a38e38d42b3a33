"""The table as a figure: bars, cases and the paper's marks."""

from experiments import figures


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
