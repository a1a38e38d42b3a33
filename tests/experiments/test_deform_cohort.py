"""The program that deforms scans: its flags reach the plan, and bad ones are named."""

import pytest

from tests import forked
from tests.preprocessing.deformed.test_deformed_cohort import write_sources


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"), count=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dry_run_names_the_cost_and_writes_nothing(listed, workers, tmp_path):
    flags = ["--split_c1=1,1,2", "--split_c2=3,1,1", f"--workers={workers}", "--dry_run"]
    done = forked.run(
        "experiments.deform_cohort", f"--manifest={listed}", f"--output={tmp_path / 'o'}", *flags
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("9 copies of 1 CTs: about 0 minutes")
    assert "WARNING: there is ONE source patient" in done.stdout
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--split_c1=1,1", "--split_c1 is '1,1'; expected 3 numbers separated by commas"),
        (
            "--split_c2=4,0,1",
            "--split_c2 is (4, 0, 1); expected at least one case each for training, validation, "
            "test",
        ),
    ],
)
def test_bad_counts_are_one_line_and_leave_nothing(listed, flag, words, tmp_path):
    done = forked.run(
        "experiments.deform_cohort", f"--manifest={listed}", f"--output={tmp_path / 'o'}", flag
    )
    assert done.returncode == 1 and done.stderr == f"error: {words}\n"
    assert not (tmp_path / "o").exists()
