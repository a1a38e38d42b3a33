"""The stages of a run, and what each starts."""

import pytest

from experiments.configuration import ExperimentConfig
from experiments.run import processes, run_cost, run_folder, run_plan
from experiments.run import stages as run_stages


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
    run = run_folder.RunFolder(tmp_path, spec.flags_text, programs=Programs)
    with pytest.raises(processes.ProgramFailed, match="nosuch"):
        run_stages.Stages(spec, run).table1()
    assert started == ["experiments.init_model"]
    assert next(iter(run_cost.estimated_seconds(spec))) == "initial model"
    run_folder.RunFolder(tmp_path, "--keep_at_site=stem\n")  # corrected settings, the same folder
