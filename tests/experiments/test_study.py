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
        f"{tmp_path}/m.json: does not exist; give the folder of your manifest of CTs by --data (make: DATA=...)"
    )


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
