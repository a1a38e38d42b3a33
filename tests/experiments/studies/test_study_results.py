"""Results of a study: intervals over seeds, verdicts, partial tables."""

import json

import pytest

from experiments.studies import html_report, runner, study_results
from runkit import atomic
from tests.experiments import run_folder
from tests.experiments.studies.small_study import configs, leave_run, read


def test_seeds_give_mean_and_interval_and_points_their_renamed_rows(tmp_path):
    study = read(tmp_path)
    runs = tmp_path / "runs"
    for seed, shift in ((1, 0.0), (2, 0.1)):
        rows = [
            {**row, "dice_pancreas": row["dice_pancreas"] - shift * (row["model"] == "FL_global")}
            for row in run_folder.rows()
        ]
        leave_run(runs / "table1" / f"seed{seed}", seed, rows)
        leave_run(
            runs / "no_vae" / f"seed{seed}", seed, run_folder.rows(("FL_global", "C1_FL_local"))
        )
    content = study_results.collect(study, runs, configs(study))
    cell = content["table"]["FL_global"]["C1_pancreas"]
    # 80 and 70: mean 75, half width t(0.975, 1) * 10 / sqrt(2) / sqrt(2) = 12.7062 * 5
    assert cell["by_seed"] == {"1": pytest.approx(80.0), "2": pytest.approx(70.0)} and cell[
        "mean"
    ] == pytest.approx(75.0)
    assert cell["high"] - 75.0 == pytest.approx(12.7062 * 5, rel=1e-4) and cell["cases"] == 4
    assert content["table"]["FL_global_no_vae"]["C1_pancreas"]["mean"] == pytest.approx(80.0)
    assert [name for name in content["table"] if name.endswith("no_vae")] == ["FL_global_no_vae"]
    assert {verdict["key"]: verdict["verdict"] for verdict in content["verdicts"]}[
        "no_tumour_without_tumours"
    ] == "not measured"  # two trainings
    study_results.write(runs, content)
    text = (runs / "study.md").read_text()
    assert (
        "4 of 4 runs are finished." in text
        and "| FL_global | 75.0 ± 63.5 (82.3) |" in text
        and "total | 4.0 min" in text
    )
    assert json.loads((runs / "study.json").read_text())["runs"][0]["fingerprints"]["rows"]


@pytest.mark.parametrize(("name", "heading"), [("study", "Study"), ("methods", "Study methods")])
def test_no_heading_repeats_the_word_study(tmp_path, name, heading):
    study = read(tmp_path, name=name)
    content = study_results.collect(study, tmp_path, configs(study))
    page = html_report.study_page(content, tmp_path)
    assert f"<title>{heading}</title>" in page and f">{heading}</h1>" in page
    assert study_results.markdown(content).startswith(f"# {heading}: profile demo")
    assert runner.cost_text(study, tmp_path, {}).startswith(f"{heading}, profile demo")


def test_variants_are_judged_together_and_the_table_is_that_of_the_first(tmp_path):
    points = [{"label": "as_it_is"}, {"label": "two_threads", "threads_per_site": 2}]
    study = read(tmp_path, variants=True, points=points, seeds=[1, 2, 3])
    for seed in study.seeds:
        for label, shift in (("as_it_is", 0.0), ("two_threads", 0.1)):
            rows = [
                {
                    **row,
                    "dice_pancreas": row["dice_pancreas"] - shift * (row["model"] == "FL_global"),
                }
                for row in run_folder.rows()
            ]
            leave_run(tmp_path / label / f"seed{seed}", seed, rows)
    content = study_results.collect(study, tmp_path, configs(study))
    assert content["table"]["FL_global"]["C1_pancreas"]["mean"] == pytest.approx(80.0)
    (part,) = next(v for v in content["verdicts"] if v["key"] == "global_above_baselines")["parts"]
    # the shift of 10 points in half of the runs, of the pancreas, which is half of the Average
    average, baselines = (
        100 * ((0.8 * 2 + 0.7 * 3) / 5 + 0.4) / 2,
        (0.64 / 2 + (0.64 + 0.5) / 2) * 100 / 2,
    )
    assert part["trainings"] == 3 and part["by_seed"]["2"] == pytest.approx(
        average - baselines - 2.5
    )
    # three equal trainings show no spread
    assert part["interval"]["low"] is None and part["verdict"] == "undecided"
    assert "Not examined: other hospitals" in study_results.markdown(content)


def test_a_verdict_from_an_earlier_release_can_be_read():
    gone = {
        "rule": "gone",
        "unit": "ml",
        "interval": {"estimate": 16 / 18, "low": 0.7, "high": 0.98, "count": 18},
        "p_holm": None,
    }
    less = {
        "rule": "less",
        "unit": "points",
        "interval": {"estimate": -1.0, "low": -2.0, "high": 0.5, "count": 39},
        "p_holm": 0.25,
    }
    assert study_results.part_numbers(gone) == "89 [70, 98] %, n = 18"
    assert study_results.part_numbers(less) == "-1.0 [-2.0, +0.5] points, n = 39, p = 0.25"
    assert (
        study_results.part_numbers({**less, "rule": "zero"})
        == "-1.0 [-2.0, +0.5] points, n = 39, p = 0.25"
    )


def test_a_missing_run_or_site_gives_a_table_marked_as_partial(tmp_path):
    study = read(tmp_path)
    runs = tmp_path / "runs"
    empty = study_results.collect(study, runs, configs(study))
    study_results.write(runs, empty)
    assert (
        "0 of 4 runs are finished. **This is a partial result.**" in (runs / "study.md").read_text()
    )
    rows = [row for row in run_folder.rows() if row["site"] == "C1"]  # C2 never answered
    atomic.write_text(
        runs / "table1" / "seed2" / "server" / "rows.jsonl",
        "".join(json.dumps(row) + "\n" for row in rows),
    )
    atomic.write_text(
        runs / "table1" / "seed2" / "failure.txt", "C2 ended with exit code 1\nmore\n"
    )
    study_results.write(runs, study_results.collect(study, runs, configs(study)))
    text = (runs / "study.md").read_text()
    assert (
        "- table1, seed 2: failed: C2 ended with exit code 1\n" in text
        and "- no_vae, seed 1: not begun" in text
    )
    assert "| C1_baseline | 85.0 (81.5) | – | – | – | – |" in text and "not measured" in text


def test_a_sweep_has_a_table_and_a_cost_for_every_point(tmp_path):
    study = read(
        tmp_path, axis="local epochs per round", points=[{"label": "1"}, {"label": "2"}], seeds=[1]
    )
    leave_run(tmp_path / "1" / "seed1", 1, run_folder.rows())
    content = study_results.collect(study, tmp_path, configs(study))
    assert [
        (point["label"], point["runs"], point["wall_seconds"]) for point in content["sweep"]
    ] == [("1", 1, 60.0), ("2", 0, None)]
    assert "| 1 | 80.0 | 70.0 | 40.0 |" in study_results.markdown(content)
