"""The program that runs a study: what it refuses, and a disk that is full."""

import re
import resource
import subprocess
import sys

import pytest

from runkit import atomic
from tests import unmeasured
from tests.experiments.programs import ROOT, refused
from tests.experiments.studies.small_study import DEFORMED, FILE


def test_a_deformed_study_without_a_manifest_names_the_flag(tmp_path):
    atomic.write_json(
        tmp_path / "s.json", {**FILE, "sites": DEFORMED, "points": [{"label": "table1"}]}
    )
    words = refused("study", f"--study={tmp_path / 's.json'}", f"--runs={tmp_path / 'runs'}")
    assert words.startswith(
        f"{tmp_path}/m.json: does not exist; give the folder of your manifest of CTs as --data (make: DATA=...)"
    )


SVT = {"filter": "svt", "gamma": 1e-5, "epsilon3": 100, "budget": 101}


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        # Noise of two clipping norms is once the effect of a patient: epsilon 4.3772 at 1e-5.
        (
            {"filter": "gaussian", "clip_norm": 1, "noise": 2, "budget": 4},
            "privacy_budget is 4, but one round costs epsilon 4.38 at delta 1e-05; nothing would ",
        ),
        # The automatic epsilon 2 grows with the number of weights and alone exceeds the rest.
        (SVT, "privacy_budget is 101, but one round costs epsilon "),
        ({**SVT, "epsilon2": 1, "budget": 101.05}, "privacy_budget is 101.05, but one round costs"),
        (
            {"filter": "gaussian", "clip_norm": 1, "noise": 9, "budget": 40, "delta": 0.06},
            "privacy_delta is 0.06, not less than 1 / 18, one in the number of training cases",
        ),
    ],
    ids=["gaussian", "svt", "svt_given", "delta"],
)
def test_a_policy_that_its_site_would_refuse_is_refused_before_anything_runs(
    tmp_path, policy, words
):
    points = [{"label": "hidden", "baselines": False, "privacy": {"C1": policy}}]
    atomic.write_json(tmp_path / "s.json", {**FILE, "points": points})
    flags = f"--study={tmp_path / 's.json'}", f"--runs={tmp_path / 'runs'}"
    assert refused("study", *flags, "--dry_run").startswith(f"point hidden, site C1: {words}")
    assert not (tmp_path / "runs").exists()


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
        cwd=ROOT,
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
