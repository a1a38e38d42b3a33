"""A study's runs: stages in order, failures, and what is not repeated."""

import dataclasses

import pytest

from experiments.results import table1_values
from experiments.run.run_cost import estimated_seconds
from experiments.studies import runner, study_file, study_results
from tests.experiments.studies.small_study import (
    CONFIG,
    DEFORMED,
    FakePrograms,
    configs,
    parse,
    read,
)


def test_deformed_sites_come_from_one_program_with_its_split_lists(tmp_path):
    study = read(tmp_path, sites=DEFORMED, points=[{"label": "table1"}], seeds=[4])
    spec = study_file.run_spec(study, study.points[0], 4, tmp_path / "runs" / "s", parse)
    assert [(site.made, site.counts, site.deformed) for site in spec.sites] == [
        (5, (3, 1, 1), tmp_path / "m.json"),
        (6, (4, 1, 1), tmp_path / "m.json"),
    ]
    assert study_file.cohort_key(study, dataclasses.replace(CONFIG, seed=4)) == "seed 4"
    assert "Data: deformed copies of real CT" in spec.notes[0]
    programs = FakePrograms()
    assert (
        runner.run(study, {("table1", 4): spec}, after_each=lambda: None, programs=programs) == []
    )
    assert programs.started[:2] == ["init_model model", "deform_cohort copies"]
    assert "synthesize C1" not in programs.started
    folder = tmp_path / "runs" / "cohorts" / "deformed-3_1_1-4_1_1-seed4"
    flags = programs.flags["prepare C2"]
    assert flags["manifest"] == str(folder / "C2" / "manifest.json") and flags["split_list"] == str(
        folder / "C2" / "split.json"
    )
    assert "split" not in flags
    made = programs.flags["deform_cohort copies"]
    assert (made["seed"], made["split_c1"], made["split_c2"], made["output"]) == (
        "4",
        "3,1,1",
        "4,1,1",
        str(folder),
    )
    assert (
        "WARNING: there is ONE"
        in study_results.collect(study, tmp_path / "runs" / "s", {("table1", 4): CONFIG})["runs"][
            0
        ]["notes"][1]
    )


def test_a_study_survives_a_failed_site_and_repeats_nothing(tmp_path):
    study, runs = read(tmp_path), tmp_path / "runs" / "s"
    specs = {
        (p.label, seed): study_file.run_spec(study, p, seed, runs, parse)
        for p in study.points
        for seed in study.seeds
    }
    programs, counted = FakePrograms(), []

    def go():
        programs.started.clear()
        return runner.run(study, specs, after_each=lambda: counted.append(1), programs=programs)

    programs.failing = {"train_local C2_baseline"}
    failures = go()
    # two attempts for each of the two seeds
    assert failures[0] == "table1, seed 1: C2 ended with exit code 1" and len(failures) == 4
    assert "serve server" in programs.started  # no_vae trains no baseline
    content = study_results.collect(study, runs, configs(study))
    assert [run["state"] for run in content["runs"]] == ["failed", "failed", "finished", "finished"]
    assert list(content["table"]) == ["FL_global_no_vae"]
    programs.failing = set()
    assert (
        go() == []
        and "synthesize C1" not in programs.started
        and "train_local C1_baseline" in programs.started
    )
    # every seed's table comes before what goes beyond the paper
    assert programs.started.index("train_pooled pooled") > max(
        i for i, s in enumerate(programs.started) if s == "join C2"
    )
    content = study_results.collect(study, runs, configs(study))
    assert set(content["table"]) == {
        *table1_values.ROWS,
        "pooled",
        "finetuned_C1_to_C2",
        "finetuned_C2_to_C1",
        "FL_global_no_vae",
    } - {"FL_best_global"}
    assert content["runs"][0]["peak_memory_bytes"] == 7
    labels = (
        "Labels: C1 pancreas complete, tumour absent; "
        "C2 not declared. Loss at a site that lacks a class: background"
    )
    assert labels in content["runs"][0]["notes"]
    assert "table1, seed 2: done" in runner.cost_text(study, runs, specs)
    assert go() == [] and programs.started == [] and len(counted) == 18


GAUSSIAN = {"filter": "gaussian", "clip_norm": 1, "noise": 7, "budget": 10, "tell_epsilon": True}


def test_the_programs_of_the_sites_get_the_policy_of_their_point(tmp_path):
    points = [
        {"label": "none", "baselines": False},
        {"label": "noise", "baselines": False, "privacy": {"C2": GAUSSIAN}},
        {
            "label": "part",
            "baselines": False,
            "privacy": {"*": {"filter": "percentile", "percentile": 75}},
        },
    ]
    study, runs = read(tmp_path, points=points, seeds=[1]), tmp_path / "runs" / "s"
    flags = {}
    for point in study.points:
        programs = FakePrograms()
        spec = study_file.run_spec(study, point, 1, runs, parse)
        assert runner.run(study, {(point.label, 1): spec}, after_each=bool, programs=programs) == []
        flags[point.label] = programs.flags
    assert "privacy_filter" not in flags["none"]["join C1"] | flags["noise"]["join C1"]
    given = flags["noise"]["join C2"]
    expected = {"filter": "gaussian", "clip": "1", "noise": "7", "budget": "10", "delta": "1e-05"}
    assert {name: given[f"privacy_{name}"] for name in expected} == expected
    assert given["privacy_tell_epsilon"] == "true" and given["lend_local"] == "false"
    # Noise on every value is far above the usual change, which the server would refuse.
    assert flags["noise"]["serve server"]["max_change_ratio"] == "0"
    for label in ("none", "part"):
        assert "max_change_ratio" not in flags[label]["serve server"]


def test_sites_keep_their_local_models_in_a_study_that_asks_about_the_global_one(tmp_path):
    point = {"label": "fedavg", "baselines": False}
    study = read(tmp_path, points=[point], seeds=[1], axis="method", local_models=False)
    spec = study_file.run_spec(study, study.points[0], 1, tmp_path / "runs" / "s", parse)
    programs = FakePrograms()
    assert runner.run(study, {("fedavg", 1): spec}, after_each=bool, programs=programs) == []
    lent = {name: flags.get("lend_local") for name, flags in programs.flags.items()}
    assert lent["join C1"] == lent["join C2"] == "false"
    lending = dataclasses.replace(spec, local_models=True)
    stage = "federation and cross-site evaluation"
    assert estimated_seconds(spec)[stage] < estimated_seconds(lending)[stage]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axis": "method", "local_models": "no"}, "`local_models` is 'no'; expected true or"),
        ({"local_models": False}, "`local_models` is false without `axis`"),
    ],
)
def test_a_study_without_local_models_asks_about_something_else_than_table_1(
    tmp_path, changes, words
):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, points=[{"label": "fedavg", "baselines": False}], seeds=[1], **changes)


def test_a_cohort_is_shared_by_points_with_and_without_a_policy(tmp_path):
    points = [
        {"label": "none", "baselines": False},
        {"label": "noise", "baselines": False, "privacy": {"*": GAUSSIAN}},
    ]
    study = read(tmp_path, points=points, seeds=[1])
    specs = {
        (point.label, 1): study_file.run_spec(study, point, 1, tmp_path / "runs", parse)
        for point in study.points
    }
    costs = runner._costs(specs)
    assert costs["none", 1]["cohort"] > 0 == costs["noise", 1]["cohort"]
