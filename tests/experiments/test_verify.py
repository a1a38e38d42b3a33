"""The program that verifies a run."""

import pytest

from experiments.reports import result_verification
from tests import failing_reads
from tests.experiments import run_folder
from tests.experiments.programs import run


def test_the_program_says_so_by_its_exit_code(tmp_path):
    finished = run_folder.leave_verifiable(tmp_path)
    good = run("verify", f"--run={finished}")
    assert good.returncode == 0 and good.stdout.endswith("verified\n"), good.stderr
    run_folder.change_table(
        finished, lambda content: content["rows"]["FL_global"].update(average=99.0)
    )
    bad = run("verify", f"--run={finished}")
    assert bad.returncode == 1 and "WRONG" in bad.stdout and "2 checks failed" in bad.stdout
    with pytest.raises(FileNotFoundError, match=r"no table1\.json here or below"):
        result_verification.runs_in(finished / "sites")


def test_a_file_that_the_disk_cannot_read_is_named(tmp_path):
    finished = run_folder.leave_verifiable(tmp_path)
    assert failing_reads.check_named(lambda: result_verification.verify(finished), tmp_path) > 2
