import pytest
from scipy import stats

from experiments.results import evaluation_table
from tests.experiments import run_folder

LINES = evaluation_table.lines(run_folder.rows(("FL_global", "C1_baseline")))


def found(model, site, grid="training", measure="dice", name="pancreas"):
    (line,) = (
        line
        for line in LINES
        if (line["model"], line["site"], line["grid"], line["measure"], line["class"])
        == (model, site, grid, measure, name)
    )
    return line


def test_a_sites_number_is_the_mean_over_its_cases_with_students_interval():
    line = found("C1_baseline", "C2")
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5  # of 0.4, 0.5, 0.6, which are not skewed
    assert (line["mean"], line["cases"]) == (pytest.approx(0.5), 3)
    assert (line["low"], line["high"]) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_all_sites_count_by_their_cases_and_their_differences_are_no_spread():
    line = found("C1_baseline", evaluation_table.ALL)
    assert (line["mean"], line["cases"]) == (pytest.approx((0.8 + 0.9 + 0.4 + 0.5 + 0.6) / 5), 5)
    # Welch and Satterthwaite by hand: variances 0.005 of two cases at C1, 0.01 of three at C2
    parts = (2 / 5) ** 2 * 0.005 / 2, (3 / 5) ** 2 * 0.01 / 3
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 1 + parts[1] ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5
    assert (line["low"], line["high"]) == (
        pytest.approx(line["mean"] - half),
        pytest.approx(line["mean"] + half),
    )


def test_a_class_without_a_score_has_no_number_and_grids_stay_apart():
    line = found("C1_baseline", "C1", name="tumour")
    assert (line["mean"], line["low"], line["high"], line["cases"]) == (None, None, None, 0)
    assert found("FL_global", "C1", grid="native")["mean"] == pytest.approx(0.4)
    assert found("FL_global", "C1")["mean"] == pytest.approx(0.8)


def test_the_table_has_the_same_columns_for_every_model():
    cells = evaluation_table.cells(LINES, measure="dice", grid="training")
    assert list(cells) == ["C1_baseline", "FL_global"]  # the order of Table 1
    columns = [
        f"{site} {name}" for site in ("C1", "C2", "all sites") for name in ("pancreas", "tumour")
    ]
    assert all(list(own) == columns for own in cells.values())
    missing = evaluation_table.cells(LINES, measure="nsd", grid="training")
    assert {line["mean"] for own in missing.values() for line in own.values()} == {None}


def test_one_site_needs_no_sum_and_a_later_row_replaces_an_earlier_one():
    (first,) = [
        row
        for row in run_folder.rows(("FL_global",))
        if (row["site"], row["case"], row["grid"]) == ("C1", 1, "training")
    ]
    lines = evaluation_table.lines([first, {**first, "dice_pancreas": 0.25}])
    assert {line["site"] for line in lines} == {"C1"}
    (line,) = (one for one in lines if (one["measure"], one["class"]) == ("dice", "pancreas"))
    assert (line["mean"], line["cases"]) == (0.25, 1)


def test_gaps_name_what_a_site_left_out():
    rows = run_folder.rows(("FL_global", "C1_baseline"))
    models, sites = ("FL_global", "C1_baseline", "other"), {"C1": 2, "C2": 0, "C3": 4}
    kept = [
        row for row in rows if (row["model"], row["site"], row["case"]) != ("FL_global", "C2", 3)
    ]
    assert evaluation_table.gaps(kept, models, sites) == {
        "C1": {"other": 2},
        "C2": {"FL_global": 1, "other": 3},
        "C3": {"FL_global": 4, "C1_baseline": 4, "other": 4},
    }
    assert evaluation_table.gaps(rows, models[:2], {"C1": 2, "C2": 3}) == {}
