"""Variants of one setting: how their programs are started; counts and spreads checked by hand."""

import html
import re

import pytest

from experiments.results import case_rows, table1_values
from experiments.run.processes import ProgramFailed
from experiments.studies import runner, study_file, study_results
from experiments.studies import variants as study_variants
from tests.experiments import run_folder
from tests.experiments.studies.small_study import FakePrograms, configs, leave_run, parse, read


def run(label, seed, *, tumour, state="finished"):
    """A run whose numbers are the paper's, but for the tumour of C1_FL_local."""
    rows = []
    for model, line in table1_values.PAPER_TABLE.items():
        if model == table1_values.AVERAGE:
            continue
        for site in table1_values.SITES:
            keys = dict.fromkeys(case_rows.REQUIRED, 0.0)
            of_tumour = (
                None
                if site == "C1"
                else (tumour if model == "C1_FL_local" else line["C2_tumour"]) / 100
            )
            marked = 3.0 if (model, site) == ("FL_global", "C1") else 0.0
            rows.append(
                {
                    **keys,
                    "model": model,
                    "site": site,
                    "case": 1,
                    "grid": "training",
                    "dice_pancreas": line[f"{site}_pancreas"] / 100,
                    "dice_tumour": of_tumour,
                    "truth_ml_tumour": 0.0 if site == "C1" else 9.0,
                    "volume_ml_tumour": marked,
                }
            )
    return {"label": label, "seed": seed, "state": state, "rows": rows}


RUNS = [
    run("as_it_is", 1, tumour=50.0),
    run("avx2", 1, tumour=0.0),
    run("as_it_is", 2, tumour=48.0),
    run("avx2", 2, tumour=52.0),
    run("sse41", 2, tumour=50.0),
    run("sse41", 1, tumour=0.0, state="unfinished"),
]


def test_findings_are_counted_over_finished_runs_and_failures_are_named():
    found = study_variants.collect(RUNS)["findings"]["fl_local_models_beat_the_baselines"]
    # With a tumour Dice of 0 the Average of C1_FL_local is (81.6 + 65.2) / 4 = 36.7, below (61.95 +
    # 54.5... of the baselines) / 2
    assert (found["holds"], found["of"], found["fails"]) == (4, 5, [["avx2", 1]])


def test_the_spread_is_that_between_variants_of_one_seed():
    cell = study_variants.collect(RUNS)["spread"]["C1_FL_local"]["C2_tumour"]
    assert cell["mean"] == pytest.approx((50 + 0 + 48 + 52 + 50) / 5)
    # seed 1: squares 25**2 * 2 with one degree of freedom; seed 2: 2**2 * 2 with two
    assert cell["deviation"] == pytest.approx(((1250 + 8) / 3) ** 0.5)
    still = study_variants.collect(RUNS)["spread"]["FL_global"]["C2_tumour"]
    assert still == {"mean": pytest.approx(46.4), "deviation": pytest.approx(0.0)}
    assert study_variants.collect(RUNS[:1])["spread"]["FL_global"]["C2_tumour"]["deviation"] is None


def test_the_results_name_finding_spread_and_every_run():
    text = "\n".join(study_variants.markdown(study_variants.collect(RUNS)))
    assert (
        "| 4 of 5 | avx2 (seed 1) |" in text
        and "| C1_FL_local | 81.6 (0.0) | 65.2 (0.0) | 40.0 (20.5) |" in text
    )
    # C2_baseline's Average; tumour and Average of C1_FL_local; tumour of C2_FL_local
    assert "| avx2 | 1 | 59.8 | 0.0 | 36.7 | 52.6 |" in text and "| 1 of 1 |" in text
    assert "No run has finished yet." in study_variants.markdown(study_variants.collect([]))


def test_what_holds_over_all_runs_is_said_in_sentences():
    text = "\n".join(study_variants.markdown(study_variants.collect(RUNS)))
    assert "All findings hold together in 4 of 5 runs." in text
    # (50 + 0 + 48 + 52 + 50) / (5 * 46.4)
    assert "C1_FL_local keeps 86 % of FL_global's tumour Dice, on the mean over 5 runs." in text
    # One case per site: ((82.3 + 65.4) / 2 + 46.4) / 2 - ((64.7 + 65.4) / 2 + 54.5) / 2 = 0.35
    above = re.search(r"FL_global's Average is (\S+) points above C2_baseline's", text)
    assert float(above[1]) == pytest.approx(0.35, abs=0.051)
    gated = [
        {**row, "model": "FL_global_gated", "volume_ml_tumour": 0.0}
        | ({} if row["dice_tumour"] is None else {"dice_tumour": row["dice_tumour"] - 0.02})
        for row in run("as_it_is", 1, tumour=50.0)["rows"]
        if row["model"] == "FL_global"
    ]
    runs = [{**one, "rows": one["rows"] + gated} for one in RUNS[:2]]
    assert (
        "With the healthy gate, FL_global marks a tumour in 0 of 2 healthy patients and loses 2.0 "
        "points of tumour Dice, on the mean over 2 runs."
    ) in study_variants.markdown(study_variants.collect(runs))


def test_the_page_shows_what_the_markdown_shows_and_a_dot_for_each_model_and_run():
    content = study_variants.collect(RUNS)
    shown = html.unescape(study_variants.section(content))
    for line in study_variants.markdown(content):
        cells = [cell.strip() for cell in line.strip("|# ").split("|")]
        assert all(cell in shown for cell in cells if not set(cell) <= set("-:")), line
    # 36.7 minus the mean of (61.95 + 0) / 2 and (65.05 + 54.5) / 2
    assert "avx2, seed 1, C1_FL_local: -8.7 points" in shown
    assert shown.count("<title>") == 5 * 3
    assert "No run has finished yet." in study_variants.section(study_variants.collect([]))


def test_the_programs_of_a_variant_get_its_environment_threads_and_stack(tmp_path, monkeypatch):
    points = [
        {"label": "as_it_is"},
        {"label": "avx2", "environment": {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "threads_per_site": 2},
        {"label": "other", "stack": "other"},
    ]
    study, runs = read(tmp_path, points=points, seeds=[1], variants=True), tmp_path / "runs" / "s"
    specs = {(p.label, 1): study_file.run_spec(study, p, 1, runs, parse) for p in study.points}
    assert [spec.threads_per_site for spec in specs.values()] == [1, 2, 1]
    monkeypatch.setattr(runner, "other_python", lambda own: "/of/the/other/stack")
    how = []
    for key, spec in specs.items():
        programs = FakePrograms()
        assert runner.run(study, {key: spec}, after_each=lambda: None, programs=programs) == []
        how.append(programs.how)
    assert how == [
        {},
        {"environment": {"ONEDNN_MAX_CPU_ISA": "AVX2"}},
        {"python": "/of/the/other/stack"},
    ]
    configs = {key: spec.config for key, spec in specs.items()}
    content = study_results.collect(study, runs, configs)
    assert {run["label"] for run in content["variants"]["runs"]} == {"as_it_is", "avx2", "other"}
    assert "## The findings in every variant" in study_results.markdown(content)


def test_a_slow_variant_can_run_with_fewer_seeds(tmp_path):
    points = [{"label": "as_it_is"}, {"label": "slow", "seeds": [2]}]
    study, runs = read(tmp_path, points=points, seeds=[1, 2], variants=True), tmp_path / "s"
    assert [(point.label, seed) for point, seed in study.runs()] == [
        ("as_it_is", 1),
        ("as_it_is", 2),
        ("slow", 2),
    ]
    for seed in study.seeds:
        leave_run(runs / "as_it_is" / f"seed{seed}", seed, run_folder.rows())
    text = study_results.markdown(study_results.collect(study, runs, configs(study)))
    assert "2 of 3 runs are finished" in text and "- slow, seed 2: not begun" in text
    leave_run(runs / "slow" / "seed2", 2, run_folder.rows())
    content = study_results.collect(study, runs, configs(study))
    assert "3 of 3 runs are finished." in study_results.markdown(content)
    assert len(content["variants"]["runs"]) == 3


def test_the_python_of_the_other_stack_is_found_beside_this_one(tmp_path):
    for version, addons in (("py3.11", True), ("py3.12", False), ("py3.13", False)):
        packages = tmp_path / version / "lib" / f"python{version[2:]}" / "site-packages"
        (packages / "tensorflow_addons").mkdir(parents=True) if addons else packages.mkdir(
            parents=True
        )
        (tmp_path / version / "bin").mkdir()
        (tmp_path / version / "bin" / "python").touch()
    assert runner.other_python(tmp_path / "py3.11/bin/python") == str(
        tmp_path / "py3.12/bin/python"
    )
    assert runner.other_python(tmp_path / "py3.13/bin/python") == str(
        tmp_path / "py3.11/bin/python"
    )
    (tmp_path / "py3.11/bin/python").unlink()
    with pytest.raises(ProgramFailed, match="no environment of the other stack lies beside"):
        runner.other_python(tmp_path / "py3.12/bin/python")
