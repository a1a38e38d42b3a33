"""The folder of a run: finished stages are not repeated, and settings stay the same."""

import json

import pytest

from experiments.run import processes
from experiments.run.run_folder import RunFolder


def test_a_finished_stage_is_not_repeated_and_an_interrupted_one_is(tmp_path):
    done = []
    run = RunFolder(tmp_path, "--seed=1\n")
    run.stage("one", 1.0, lambda group: done.append("one"))
    with pytest.raises(ZeroDivisionError):
        run.stage("two", 1.0, lambda group: 1 / 0)
    again = RunFolder(tmp_path, "--seed=1\n")
    for name in ("one", "two"):
        again.stage(name, 1.0, lambda group, name=name: done.append(name))
    assert done == ["one", "two"] and set(again.state["wall_seconds"]) == {"one", "two"}
    kept = json.loads((tmp_path / "stages.json").read_text())
    assert set(kept["wall_seconds"]) == {"one", "two"}
    with pytest.raises(ValueError, match="holds a run with other settings"):
        RunFolder(tmp_path, "--seed=2\n")


def test_a_run_that_exhausted_a_gpu_goes_on_with_another_limit_of_its_memory(tmp_path):
    RunFolder(tmp_path, "--seed=1\n--gpu_memory_mib=16000\n")
    for settings in ("--seed=1\n--gpu_memory_mib=8000\n", "--seed=1\n"):
        RunFolder(tmp_path, settings)
    with pytest.raises(ValueError, match=r"other settings \(--seed=1; now --seed=2\)"):
        RunFolder(tmp_path, "--seed=2\n--gpu_memory_mib=8000\n")


def refused(group):
    raise processes.ProgramFailed("no such layer")


def test_settings_that_the_first_stage_refused_can_be_corrected_in_the_same_folder(tmp_path):
    with pytest.raises(processes.ProgramFailed):
        RunFolder(tmp_path, "--seed=1\n").stage("check", 1.0, refused, checks_settings=True)
    run = RunFolder(tmp_path, "--seed=2\n")
    run.stage("check", 1.0, lambda group: None, checks_settings=True)
    with pytest.raises(processes.ProgramFailed):
        run.stage("later check", 1.0, refused, checks_settings=True)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        RunFolder(tmp_path, "--seed=3\n")


@pytest.mark.parametrize("error", [processes.ProgramFailed("full disk"), KeyboardInterrupt()])
def test_a_stage_with_results_keeps_the_settings_when_it_fails(tmp_path, error):
    def fails(group):
        raise error

    with pytest.raises(type(error)):
        RunFolder(tmp_path, "--seed=1\n").stage("training", 1.0, fails)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        RunFolder(tmp_path, "--seed=2\n")
