"""The stages of a run: finished ones are not repeated."""

import json

import pytest

from experiments.configuration import ExperimentConfig
from experiments.run import processes, run_plan
from experiments.run import stages as run_stages


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


def test_a_run_that_exhausted_a_gpu_goes_on_with_another_limit_of_its_memory(tmp_path):
    run_stages.RunFolder(tmp_path, "--seed=1\n--gpu_memory_mib=16000\n")
    for settings in ("--seed=1\n--gpu_memory_mib=8000\n", "--seed=1\n"):
        run_stages.RunFolder(tmp_path, settings)
    with pytest.raises(ValueError, match=r"other settings \(--seed=1; now --seed=2\)"):
        run_stages.RunFolder(tmp_path, "--seed=2\n--gpu_memory_mib=8000\n")


def test_programs_that_run_at_the_same_time_share_the_processors(monkeypatch):
    monkeypatch.setattr(run_stages.processors, "available", lambda: 15)
    assert [run_stages._workers_of_each(n) for n in (0, 1, 2, 4, 20)] == [15, 15, 7, 3, 1]


def test_settings_that_fit_no_network_are_refused_before_any_scan_is_made(tmp_path):
    started = []

    class Programs(processes.ProgramGroup):
        def start(self, name, module, arguments, **named):
            started.append(module)

        def wait(self, programs, what):
            if started[-1] == "experiments.init_model":
                raise processes.ProgramFailed("keep has the pattern 'nosuch'")

    spec = run_plan.RunSpec(
        config=ExperimentConfig(keep_at_site=("nosuch",)),
        flags_text="--keep_at_site=nosuch\n",
        folder=tmp_path,
        cohorts=tmp_path / "cohort",
        sites=tuple(run_plan.SiteSpec(name=name, cohort={name: 5}) for name in ("C1", "C2")),
    )
    run = run_stages.RunFolder(tmp_path, spec.flags_text, programs=Programs)
    with pytest.raises(processes.ProgramFailed, match="nosuch"):
        run_stages.Stages(spec, run).table1()
    assert started == ["experiments.init_model"]
    assert next(iter(run_plan.estimated_seconds(spec))) == "initial model"
