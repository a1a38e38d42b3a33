import dataclasses
import json
import pathlib
import re
import resource
import subprocess
import sys

import pytest

from experiments.configuration import ExperimentConfig
from experiments.reports import table1_report
from experiments.results import paper_table
from experiments.run import plan as run_plan
from experiments.run import stages as run_stages
from experiments.run.processes import ProgramFailed
from experiments.studies import runner, study_file, study_results
from runkit import atomic
from tests import unmeasured
from tests.experiments import run_folder

CONFIG = ExperimentConfig(
    profile="demo",
    seed=1,
    genotype="c2fnas",
    filters=8,
    vae="reduced",
    latent_size=128,
    classifier_bias="log_prior",
    class_prior=(0.985, 0.012, 0.003),
    spacing_mm=(3.0, 3.0, 3.0),
    window_hu=(-200.0, 250.0),
    patch_size=(48, 48, 48),
    patches_per_case=1,
    foreground_fraction=0.5,
    batch_size=4,
    learning_rate=5e-3,
    final_learning_rate=5e-5,
    kl="voxels",
    num_rounds=13,
    local_epochs=5,
    inference_window=(80, 80, 64),
    inference_overlap=0.25,
    inference_blending="constant",
)
FILE = {
    "name": "s",
    "profile": "demo",
    "seeds": [1, 2],
    "pictures": "synthetic",
    "sites": {
        "C1": {"cohort": {"C1": 30}, "split": [18, 6, 6]},
        "C2": {"cohort": {"C2": 34}, "split": [20, 7, 7]},
    },
    "points": [
        {"label": "table1", "beyond": ["pooled", "finetuned"]},
        {
            "label": "no_vae",
            "settings": {"vae": "none"},
            "baselines": False,
            "rows": {"FL_global": "FL_global_no_vae"},
        },
    ],
}


def read(folder, **changes):
    atomic.write_json(folder / "s.json", {**FILE, **changes})
    return study_file.read(folder / "s.json")


def parse(arguments):
    return dataclasses.replace(CONFIG, seed=int(arguments[1].split("=")[1])), "\n".join(arguments)


def test_a_file_gives_a_run_for_every_point_and_seed(tmp_path):
    study = read(tmp_path)
    spec = study_file.run_spec(study, study.points[1], 2, tmp_path / "runs" / "s", parse)
    assert spec.flags_text.split("\n")[1:] == ["--seed=2", "--vae=none"] and not spec.baselines
    assert (
        spec.folder == tmp_path / "runs" / "s" / "no_vae" / "seed2"
        and spec.cohorts == tmp_path / "runs" / "cohorts"
    )
    assert [(site.name, site.split, site.cohort_seed) for site in spec.sites] == [
        ("C1", (18, 6, 6), 2),
        ("C2", (20, 7, 7), 2),
    ]
    assert "C1 18/6/6; C2 20/7/7" in spec.notes[0]


def test_further_sites_have_other_patients_and_two_hospitals_can_share_a_site(tmp_path):
    sites = {**FILE["sites"], "C3": {"cohort": {"C1": 5, "C2": 7}}}
    study = read(tmp_path, points=[{"label": "three", "sites": sites}])
    third = study_file.run_spec(study, study.points[0], 1, tmp_path / "s", parse).sites[2]
    assert third.cohort_seed not in (1, 2) and third.counts == (8, 2, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [1, 1]}, r"s\.json: `seeds` is \[1, 1\]"),
        ({"pictures": "yes"}, "`pictures` is 'yes'; expected 'synthetic', 'public' or 'private'"),
        ({"seed": 3}, "the study has unknown keys seed"),
        (
            {"points": [{"label": "a", "stack": "new"}]},
            "point a: `stack` is 'new'; expected one of own, other",
        ),
        (
            {"points": [{"label": "a", "threads_per_site": 0}]},
            "point a: `threads_per_site` is 0; expected a number of at least 1",
        ),
        (
            {"points": [{"label": "a", "environment": {"X": 1}}]},
            r"point a: `environment` is \{'X': 1\}; expected names with texts as values",
        ),
        ({"points": [{"label": "a/b"}]}, "label of a point is 'a/b'"),
        ({"points": [{"label": "a"}, {"label": "a"}]}, "give each its own label"),
        ({"points": [{"label": "a", "beyond": ["magic"]}]}, "`beyond` has magic"),
        (
            {"points": [{"label": "a", "beyond": ["finetuned"], "baselines": False}]},
            "fine-tuning starts from the baselines",
        ),
        ({"sites": {"C1": {"cohort": {"C1": 5}}}}, "Table 1 needs C1 and C2"),
        ({"name": ""}, "`name` is missing"),
        ({"phantom": "soft"}, "point table1: `phantom` is 'soft'; expected one of standard, hard"),
        (
            {
                "sites": {
                    "C1": {"deformed": "m.json", "split": [1, 1, 1]},
                    "C2": {"cohort": {"C2": 5}},
                }
            },
            "`deformed` is for C1 and C2 together",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_key_value_and_remedy(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, **changes)


def test_a_point_chooses_its_phantom_and_the_standard_one_is_not_recorded(tmp_path):
    study = read(tmp_path, points=[{"label": "standard"}, {"label": "hard", "phantom": "hard"}])
    standard, hard = (
        study_file.run_spec(study, point, 1, tmp_path / "s", parse) for point in study.points
    )
    assert [site.phantom for site in (*standard.sites, *hard.sites)] == [
        "standard",
        "standard",
        "hard",
        "hard",
    ]
    assert (
        "hard synthetic cohort" in hard.notes[0] and "Data: synthetic cohort" in standard.notes[0]
    )
    folders = [
        run_stages._cohort_folder(spec, spec.sites[1], "C2").name for spec in (standard, hard)
    ]
    assert folders == ["C2-34-seed1", "C2-hard-34-seed1"]
    texts = [runner._sites_text(spec) for spec in (standard, hard)]
    # as in an earlier release, so that its runs can be resumed
    assert "phantom" not in texts[0]
    assert "--phantom=C1:hard\n--phantom=C2:hard\n" in texts[1]


DEFORMED = {
    "C1": {"deformed": "m.json", "split": [3, 1, 1]},
    "C2": {"deformed": "m.json", "split": [4, 1, 1]},
}


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
    assert programs.started[0] == "deform_cohort copies" and "synthesize C1" not in programs.started
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


def test_a_deformed_study_without_a_manifest_names_the_flag(tmp_path):
    atomic.write_json(
        tmp_path / "s.json", {**FILE, "sites": DEFORMED, "points": [{"label": "table1"}]}
    )
    command = [
        sys.executable,
        "-m",
        "experiments.study",
        f"--study={tmp_path / 's.json'}",
        f"--runs={tmp_path / 'runs'}",
    ]
    done = subprocess.run(
        command, cwd=pathlib.Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (
        f"error: {tmp_path}/m.json: does not exist; give the folder of your manifest of CTs by --data (make: DATA=...)"
        in done.stderr
    )


def test_a_split_larger_than_its_cohort_is_refused():
    with pytest.raises(ValueError, match="site C1: the split has 12 cases, but the cohort only 10"):
        run_plan.SiteSpec(name="C1", cohort={"C1": 10}, split=(8, 2, 2))
    with pytest.raises(ValueError, match="exactly one of `cohort`"):
        run_plan.SiteSpec(name="C1")
    with pytest.raises(ValueError, match="site C1: `deformed` sources need a `split`"):
        run_plan.SiteSpec(name="C1", deformed=pathlib.Path("m.json"))
    with pytest.raises(
        ValueError, match="site C1: `phantom` is 'hard', but only a synthetic `cohort` has one"
    ):
        run_plan.SiteSpec(name="C1", manifest=pathlib.Path("m.json"), phantom="hard")


def test_the_estimated_cost_is_proportional_to_the_work(tmp_path):
    study = read(tmp_path)
    spec = study_file.run_spec(study, study.points[0], 1, tmp_path, parse)
    one = run_plan.cost(spec)
    # the demo takes about a quarter of an hour
    assert 300 < sum(run_plan.cost(dataclasses.replace(spec, beyond=())).values()) < 2400
    twice = run_plan.cost(
        dataclasses.replace(spec, config=dataclasses.replace(CONFIG, num_rounds=26))
    )
    start = 16.0  # programs start once whatever they do
    assert twice["baselines"] - start == pytest.approx(2 * (one["baselines"] - start))
    assert run_plan.cost(dataclasses.replace(spec, baselines=False))["baselines"] == 0


def test_a_finished_stage_is_not_repeated_and_an_interrupted_one_is(tmp_path):
    done = []
    run = run_stages.RunFolder(tmp_path, "--seed=1\n")
    run.stage("one", 1.0, lambda group: done.append("one"))
    with pytest.raises(ZeroDivisionError):
        run.stage("two", 1.0, lambda group: 1 / 0)
    again = run_stages.RunFolder(tmp_path, "--seed=1\n")
    for name in ("one", "two"):
        again.stage(name, 1.0, lambda group, name=name: done.append(name))
    assert done == ["one", "two"] and set(again.state["wall_seconds"]) == {"one", "two"}
    kept = json.loads((tmp_path / "stages.json").read_text())
    assert set(kept["wall_seconds"]) == {"one", "two"}
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run_stages.RunFolder(tmp_path, "--seed=2\n")


def configs(study):
    return {
        (point.label, seed): dataclasses.replace(CONFIG, seed=seed)
        for point in study.points
        for seed in study.seeds
    }


def leave_run(folder, seed, rows, wall=60.0):
    metadata = {
        "profile": "demo",
        "seed": seed,
        "stack": "s",
        "configuration": run_folder.CONFIGURATION,
        "wall_seconds": {"all": wall},
    }
    table1_report.write_table(folder, rows, metadata)
    atomic.write_json(
        folder / "stages.json", {"wall_seconds": {"all": wall}, "peak_memory_bytes": 2**30}
    )


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


def test_every_committed_study_file_is_valid(tmp_path):
    files = sorted(study_file._FLAGFILES.parent.glob("studies/*.json"))
    assert {
        "demo",
        "local_epochs",
        "imbalance",
        "sites",
        "tumour_share",
        "phantom",
        "real_anatomy",
    } <= {file.stem for file in files}
    for file in files:
        study = study_file.read(file)
        for point in study.points:
            assert study_file.run_spec(study, point, 1, tmp_path, parse).sites


class FakePrograms:
    """Stands in for programs: each leaves at once what the real one leaves at its end; one of them
    may fail.
    """

    def __init__(self):
        self.started, self.failing, self.flags = [], set(), {}

    def __call__(self, log_folder, **how):
        self._failed = []
        self.how = how
        return self

    def __enter__(self):
        self.peak_memory_bytes = 7
        return self

    def __exit__(self, *error):
        pass

    def start(self, name, module, arguments, *, log=None):
        values = dict(argument[2:].split("=", 1) for argument in arguments)
        program, who = (
            module.removeprefix("experiments."),
            values.get("model_name") or values.get("site") or name,
        )
        self.started.append(f"{program} {who}")
        self.flags[f"{program} {who}"] = values
        if f"{program} {who}" in self.failing:
            self._failed.append(name)
        elif program == "prepare":
            index = {
                "site": name,
                "seed": 1,
                "settings": {},
                "splits": {},
                "numbers": {},
                "sources": {},
            }
            declared = {"pancreas": "complete", "tumour": "absent"} if name == "C1" else None
            atomic.write_json(
                pathlib.Path(values["site_folder"]) / "cases" / "index.json",
                {**index, "declared_labels": declared},
            )
        elif program == "deform_cohort":
            atomic.write_json(
                pathlib.Path(values["output"]) / "cohort.json",
                {"notes": ["WARNING: there is ONE source patient."]},
            )
        elif program == "serve":
            atomic.write_json(pathlib.Path(values["store"]) / "address.json", {"port": 1})
            rows = run_folder.rows()
            atomic.write_text(
                pathlib.Path(values["store"]) / "rows.jsonl",
                "".join(json.dumps(row) + "\n" for row in rows),
            )
        elif program == "score":
            models = [entry.split(":")[0] for entry in values["models"].split(",")]
            rows = [
                {**row, "model": model}
                for model in models
                for row in run_folder.rows(("FL_global",))
                if row["site"] == name
            ]
            atomic.write_text(values["output"], "".join(json.dumps(row) + "\n" for row in rows))
        return name

    def wait(self, programs, what, *, also_alive=()):
        for name in programs:
            if name in self._failed:
                raise ProgramFailed(f"{name} ended with exit code 1")

    def wait_for(self, ready, program, what, timeout_s):
        assert ready()


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
        *paper_table.ROWS,
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


@pytest.mark.parametrize(
    ("limit", "flags", "file"),
    [
        (100, [], "table1/seed1/run.flags"),
        (2000, ["--report_only"], "study.json"),
        (40_000, ["--report_only"], "study.html"),
    ],
)
def test_a_study_that_cannot_write_a_file_ends_with_one_line(tmp_path, limit, flags, file):
    atomic.write_json(tmp_path / "s.json", FILE)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.study",
            f"--study={tmp_path / 's.json'}",
            f"--runs={tmp_path / 'runs'}",
            *flags,
        ],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        env=unmeasured.environment(),  # the limit holds for coverage's own files too
        # as a disk that is full
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    words = (
        r"cannot be written \(File too large; it takes [\d,]+ bytes\); "
        r"[\d.]+ MB are free there\. .* run the same command again: "
    )
    assert done.returncode == 1 and re.fullmatch(
        f"error: {tmp_path}/runs/s/{file}: {words}finished parts are kept, .*\n", done.stderr
    ), done.stderr
