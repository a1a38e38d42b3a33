import dataclasses
import json

import numpy as np
import pytest

from experiments.results import score_summary, table1_values
from tests import wrong_values


def case(model, site, number, pancreas, tumour=None, grid="training", **volumes):
    ml = {
        "volume_ml_pancreas": 70.0,
        "volume_ml_tumour": 0.0,
        "truth_ml_pancreas": 75.0,
        "truth_ml_tumour": 0.0 if site == "C1" else 9.0,
    }
    return {
        "model": model,
        "site": site,
        "case": number,
        "grid": grid,
        "dice_pancreas": pancreas,
        "dice_tumour": tumour,
        **ml,
        **volumes,
    }


def cohort(model, c1_pancreas, c2_pancreas, c2_tumour, counts, seed=0):
    """Cases whose means are exactly the given per cents, spread symmetrically about them."""
    generator = np.random.default_rng(seed)

    def spread(percent, count):
        width = min(percent, 100 - percent) / 100 * 0.5
        half = generator.uniform(0, width, count // 2)
        return percent / 100 + np.concatenate([half, -half, np.zeros(count % 2)])

    c1 = [case(model, "C1", i + 1, d) for i, d in enumerate(spread(c1_pancreas, counts[0]))]
    both = zip(spread(c2_pancreas, counts[1]), spread(c2_tumour, counts[1]), strict=True)
    return c1 + [case(model, "C2", i + 1, p, t) for i, (p, t) in enumerate(both)]


def paper_rows(counts=(84, 100)):
    rows = []
    for seed, model in enumerate(table1_values.MODELS):
        rows += cohort(
            model,
            *(table1_values.PAPER_TABLE[model][c] for c in table1_values.COLUMNS[:3]),
            counts,
            seed,
        )
    return rows


def test_fed_the_papers_dice_columns_its_derived_columns_come_out():
    lines = table1_values.table(paper_rows())
    for model in table1_values.MODELS:
        for column in table1_values.COLUMNS:
            assert lines[model].percent[column] == pytest.approx(
                table1_values.PAPER_TABLE[model][column], abs=0.1
            ), (model, column)
        assert lines[model].cases == {
            "C1_pancreas": 84,
            "C2_pancreas": 100,
            "C2_tumour": 100,
            "pancreas_average": 184,
            "average": 0,
        }


def test_the_bottom_row_is_the_mean_of_the_five_models_and_not_what_the_paper_prints():
    lines = table1_values.table(paper_rows())
    means = [lines[table1_values.AVERAGE].percent[column] for column in table1_values.COLUMNS]
    np.testing.assert_allclose(means, [78.3, 60.9, 40.7, 68.9, 54.8], atol=0.06)
    printed = table1_values.PAPER_TABLE[table1_values.AVERAGE]
    assert means[2] - printed["C2_tumour"] > 2 and means[4] - printed["average"] > 1


def test_sites_weigh_by_their_cases_and_absent_classes_do_not_count():
    rows = [
        case("FL_global", "C1", 1, 0.9, None),
        case(
            "FL_global", "C1", 2, 0.7, 0.0
        ),  # a false tumour in a healthy case: no part of C2's tumour column
        case("FL_global", "C1", 5, 0.5, None),
        case("FL_global", "C2", 1, 0.3, 0.4),
        case("FL_global", "C2", 2, None, 0.8),
    ]
    row = table1_values.table(rows)["FL_global"]
    # C1 (0.9+0.7+0.5)/3, C2 0.3 of one case, tumour (0.4+0.8)/2; pancreas (2.1+0.3)/4 = 0.6;
    # (0.6+0.6)/2
    np.testing.assert_allclose(
        [row.percent[c] for c in table1_values.COLUMNS], [70.0, 30.0, 60.0, 60.0, 60.0]
    )
    assert [row.cases[c] for c in table1_values.COLUMNS] == [3, 1, 2, 4, 0]


def test_grids_are_kept_apart_and_a_repeated_report_replaces_the_first():
    rows = [
        case("C1_baseline", "C1", 1, 0.2),
        case("C1_baseline", "C1", 1, 0.6, grid="native"),
        case("C1_baseline", "C1", 1, 0.4),
    ]
    assert table1_values.table(rows)["C1_baseline"].percent["C1_pancreas"] == pytest.approx(40.0)
    assert table1_values.table(rows, grid="native")["C1_baseline"].percent[
        "C1_pancreas"
    ] == pytest.approx(60.0)


def test_a_partial_table_has_absent_rows_and_empty_cells_and_no_verdict():
    rows = [*cohort("C1_baseline", 80, 40, 0, (4, 6)), case("C2_baseline", "C2", 1, 0.7, 0.5)]
    lines = table1_values.table(rows)
    assert list(lines) == ["C1_baseline", "C2_baseline"]
    assert lines["C2_baseline"].percent == {
        "C1_pancreas": None, "C2_pancreas": pytest.approx(70), "C2_tumour": pytest.approx(50), "pancreas_average": None, "average": None
    }  # fmt: skip
    verdicts = {name: finding.holds for name, finding in table1_values.findings(lines).items()}
    assert verdicts == {
        "c1_baseline_finds_no_tumour": True,
        "baselines_drop_on_the_other_site": None,
        "fl_local_models_beat_the_baselines": None,
        "fl_global_beats_the_baselines": None,
    }
    assert table1_values.table([]) == {}


def test_the_best_global_model_stands_beneath_the_mean_and_outside_it():
    rows = paper_rows((4, 6))
    without = table1_values.table(rows)
    lines = table1_values.table(
        cohort("FL_best_global", 99, 99, 99, (4, 6)) + rows + cohort("extra", 1, 1, 1, (4, 6))
    )
    assert list(lines) == [*table1_values.MODELS, "Average", "FL_best_global", "extra"]
    assert lines["Average"] == without["Average"]


def test_the_papers_findings_hold_on_the_papers_numbers():
    assert all(
        finding.holds is True
        for finding in table1_values.findings(table1_values.table(paper_rows())).values()
    )


@pytest.mark.parametrize(
    ("model", "column", "value", "broken"),
    [
        ("C1_baseline", "C2_tumour", 0.06, "c1_baseline_finds_no_tumour"),
        ("C1_baseline", "C2_pancreas", 81.6, "baselines_drop_on_the_other_site"),
        ("C2_baseline", "C1_pancreas", 65.4, "baselines_drop_on_the_other_site"),
        (
            "C2_FL_local",
            "average",
            44.9,
            "fl_local_models_beat_the_baselines",
        ),  # mean of the baselines: (30.1 + 59.8) / 2 = 44.95
        ("FL_global", "average", 44.9, "fl_global_beats_the_baselines"),
    ],
)
def test_each_finding_fails_by_itself(model, column, value, broken):
    lines = {
        name: table1_values.TableRow(percent, {})
        for name, percent in table1_values.PAPER_TABLE.items()
    }
    lines[model] = dataclasses.replace(
        lines[model], percent={**lines[model].percent, column: value}
    )
    assert [
        name for name, finding in table1_values.findings(lines).items() if not finding.holds
    ] == [broken]


def test_false_tumours_are_counted_in_healthy_cases_only():
    rows = [
        case("C2_baseline", "C1", 1, 0.5, 0.0, volume_ml_tumour=0.3),
        case("C2_baseline", "C1", 2, 0.5),
        case("C2_baseline", "C2", 1, 0.5, 0.3, volume_ml_tumour=5.0),
        case("C1_baseline", "C1", 1, 0.5),
    ]
    assert table1_values.false_tumours(rows) == {"C1_baseline": (0, 1), "C2_baseline": (1, 2)}


def test_rows_are_read_back_and_a_broken_line_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [case("C1_baseline", "C1", 1, 0.5), case("C1_baseline", "C2", 1, 0.25, 0.125)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert table1_values.read_rows(file) == rows
    file.write_text(json.dumps(rows[0]) + '\n{"model": "C1_baseline", "case": 7}\n')
    with pytest.raises(
        ValueError, match=r"rows\.jsonl, line 2: the row of case 7 lacks site, grid"
    ):
        table1_values.read_rows(file)
    # As an earlier release's server accepted it.
    file.write_text(json.dumps({**rows[0], "volume_ml_tumour": None}) + "\n")
    with pytest.raises(ValueError, match=r"line 1: the row of case 1 lacks volume_ml_tumour"):
        table1_values.read_rows(file)
    file.write_text('{"model"\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: not valid JSON"):
        table1_values.read_rows(file)


def test_a_case_that_is_reported_twice_counts_once_in_every_number(tmp_path):
    """More rows of the same patients must not make an interval narrower."""
    rows = [row for row in paper_rows((6, 7)) if row["model"] == "FL_global"]
    false = [dict(row, volume_ml_tumour=2.0) for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows, *false]))
    read = table1_values.read_rows(file)
    assert read == false
    assert table1_values.false_tumours(read) == {"FL_global": (6, 6)}
    assert {line["cases"] for line in score_summary.by_model(read)} <= {0, 6, 7}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("dice_pancreas", float("nan")),
        ("hd95_mm_tumour", float("inf")),
        ("dice_tumour", "0.5"),
        ("truth_ml_tumour", True),
        ("score_tumour", [1.0]),
        ("case", None),
        ("case", 1.5),
    ],
)
def test_a_row_with_something_else_than_a_number_is_refused_with_its_line(tmp_path, column, value):
    file = tmp_path / "rows.jsonl"
    rows = [case("FL_global", "C1", 1, 0.5), {**case("FL_global", "C1", 2, 0.5), column: value}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"rows.jsonl, line 2: {column} is .*number"):
        table1_values.read_rows(file)


_ROW = case("C1_FL_local", "C1", 3, 0.5, score_tumour=1.5)


@pytest.mark.parametrize("place", wrong_values.places(_ROW), ids=wrong_values.named)
def test_a_row_with_any_value_anywhere_is_read_or_refused_with_its_line(tmp_path, place):
    path = tmp_path / "rows.jsonl"
    for row in wrong_values.replaced(_ROW, place):
        path.write_text(json.dumps(row) + "\n")
        try:
            table1_values.table(table1_values.read_rows(path))
        except ValueError as error:
            assert str(error).startswith(f"{path}, line 1: ") and "\n" not in str(error)
            assert len(str(error)) < len(str(path)) + 600


def test_unknown_sites_and_grids_are_named():
    with pytest.raises(ValueError, match="site is 'C3'"):
        table1_values.table([case("FL_global", "C3", 1, 0.5)])
    with pytest.raises(ValueError, match="grid is 'voxel'"):
        table1_values.table([], grid="voxel")
