"""The GPU benchmark, as far as a machine without a GPU can test it."""

import math
import subprocess
import sys

from tests.benchmarks import gpu_rows, gpu_speed, gpu_targets


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
    found = gpu_rows._of_steps(times, [5.0, 0.2, 0.3, 0.4], batch=2)
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


def test_xla_writes_what_it_tuned_and_the_next_process_reads_it(tmp_path):
    first = gpu_speed.kept_by_xla(tmp_path)
    assert "--xla_gpu_exclude_nondeterministic_ops" in first["XLA_FLAGS"]
    assert "dump_autotune_results_to" in first["XLA_FLAGS"]
    (tmp_path / "autotune.textproto").touch()
    second = gpu_speed.kept_by_xla(tmp_path)
    assert "load_autotune_results_from" in second["XLA_FLAGS"]
    assert second["TF_XLA_FLAGS"] == first["TF_XLA_FLAGS"]


def test_goals_compare_the_best_ways_of_like_precision_by_hand():
    def steps(ours, again, half, theirs, autocast):
        names = {
            "ours, deterministic (the default)": again,
            "ours, xla, not deterministic": ours,
            "ours, mixed_float16": half,
            "ours, deterministic, without TF32": 0.001,  # none of the ways that count
            "PyTorch, float32 (TF32), contiguous": theirs,
            "PyTorch, float32 (TF32), channels last": theirs + 1,
            "PyTorch, float16 autocast, contiguous": autocast,
        }
        return {name: {"step_s": step, "peak_gib": 2 * step} for name, step in names.items()}

    found = {
        "batch 2": steps(4.0, 6.0, 3.0, 5.0, 2.0),
        "batch 8": steps(16.0, 24.0, 10.0, 20.0, 10.0),
        "demo": {"a site with tumours": {"patches_per_s": 199.0}},
        "mask": {
            "ours": {"seconds": 0.4, "peak_gib": 9.0},
            "MONAI, PyTorch's network": {"seconds": 0.5, "peak_gib": 16.0},
        },
        "feeding": {"ours, paper's profile": {"skipped": "no room"}},
    }
    goals = {goal.name: goal for goal in gpu_targets.goals(found, gpu_speed.STEP_ROWS)}
    expected = {
        "step of PyTorch's best, batch 2, float32": (0.8, "reached"),
        "deterministic, batch 2, float32": (1.2, "reached"),
        "step of PyTorch's best, batch 2, float16": (1.5, "missed"),
        "peak memory of PyTorch's, batch 2, float32": (0.8, "reached"),
        "float32 of mixed, batch 8": (1.6, "reached"),
        "patches per second, demo": (199.0, "missed"),
        "mask's seconds of MONAI's": (0.8, "reached"),
        "mask's peak_gib of MONAI's": (9 / 16, "missed"),
        "share of waiting for patches": (None, "not measured"),
        "start to second step, s: ours, xla, started again": (None, "not measured"),
    }
    for name, (value, verdict) in expected.items():
        assert goals[name].value == value and goals[name].verdict == verdict, name
    assert "| patches per second, demo | 199 | at least 200 | missed |" in gpu_targets.table(
        list(goals.values())
    )


def test_each_goal_has_its_rows():
    names = {row.name for row in gpu_speed.STEP_ROWS if not row.batches or 8 in row.batches}
    assert {"ours, deterministic, started again", "ours, xla, started again"} <= names
    for half in (False, True):
        peers = [r for r in gpu_speed.STEP_ROWS if r.function == "pytorch" and r.half == half]
        assert len(peers) == 2  # either layout
        ours = [
            row
            for row in gpu_speed.STEP_ROWS
            if row.function == "product" and row.counts and row.half == half
        ]
        assert {row.deterministic for row in ours} == {False, True}
