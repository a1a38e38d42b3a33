"""The GPU benchmark, as far as a machine without a GPU can test it."""

import math
import subprocess
import sys

from tests.benchmarks import gpu_speed


def test_a_table_leaves_out_rows_with_their_reason_and_figures_that_are_unknown():
    rows = {
        "ours": {"step_s": 0.11649, "peak_gib": math.nan, "more": 1},
        "peer": {"skipped": "ModuleNotFoundError: No module named 'torch'"},
    }
    assert gpu_speed.table("batch 2", rows, {"step_s": "step, s", "peak_gib": "peak, GiB"}) == [
        "| batch 2 | step, s | peak, GiB |",
        "|---|---|---|",
        "| ours | 0.116 |  |",
        "left out: peer: ModuleNotFoundError: No module named 'torch'",
    ]


def test_a_step_is_the_median_after_the_warm_up_by_hand():
    # the first takes 9 s, three more of the warm-up 2 s, then 1, 1, 1, 3 s
    times = [0, 9, 11, 13, 15, 16, 17, 18, 21]
    found = gpu_speed._of_steps(times, [5.0, 0.2, 0.3, 0.4], batch=2)
    assert found == {
        "step_s": 1,
        "first_step_s": 9,
        "patches_per_s": 2.0,
        "forward_s": 0.3,
    }


def test_a_row_that_fails_hangs_or_cannot_start_is_left_out_with_the_reason(monkeypatch):
    assert "nowhere" in gpu_speed.measured("product", {}, "nowhere", 9.0)["skipped"]

    def run(command, **named):
        if named["timeout"] < 1:
            raise subprocess.TimeoutExpired(command, named["timeout"])
        return subprocess.CompletedProcess(command, 1, "", "Trace\nModuleNotFoundError: monai\n")

    monkeypatch.setattr(gpu_speed.subprocess, "run", run)
    row = ("mask_monai", {}, sys.executable)
    assert gpu_speed.measured(*row, 0.5) == {"skipped": "not done after 0.5 s"}
    assert gpu_speed.measured(*row, 5.0) == {"skipped": "ModuleNotFoundError: monai"}


def test_without_a_gpu_it_says_so_and_measures_nothing(monkeypatch, capsys):
    from c2fnas import gpus

    monkeypatch.setattr(gpus, "found", lambda: ())
    monkeypatch.setattr(gpu_speed, "measured", None)
    assert gpu_speed.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: TensorFlow finds no GPU here")
