"""The program that verifies a run."""

import subprocess
import sys

import pytest

from experiments.reports import result_verification
from tests.experiments import run_folder


def test_the_program_says_so_by_its_exit_code(tmp_path):
    finished = run_folder.leave_verifiable(tmp_path)

    def run():
        command = [sys.executable, "-m", "experiments.verify", f"--run={finished}"]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    good = run()
    assert good.returncode == 0 and good.stdout.endswith("verified\n"), good.stderr
    run_folder.change_table(
        finished, lambda content: content["rows"]["FL_global"].update(average=99.0)
    )
    bad = run()
    assert bad.returncode == 1 and "WRONG" in bad.stdout and "2 checks failed" in bad.stdout
    with pytest.raises(FileNotFoundError, match=r"no table1\.json here or below"):
        result_verification.runs_in(finished / "sites")
