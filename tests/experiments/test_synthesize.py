"""The program that makes a synthetic cohort: its flags reach the cohort, and bad ones are named."""

import pytest

from preprocessing import manifest
from tests import forked


def test_the_flags_decide_the_cohort(tmp_path):
    flags = ["--site=C2", "--phantom=hard", "--cases=1", "--seed=4", f"--output={tmp_path / 'c'}"]
    done = forked.run("experiments.synthesize", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"1 cases of C2: {tmp_path / 'c' / 'manifest.json'}"
    made = manifest.read(tmp_path / "c" / "manifest.json")
    assert made.site == "C2" and [case.case_id for case in made.cases] == ["C2_0001"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--cases=0", "error: --cases is 0; expected at least 1"),
        ("--site=C3", "value should be one of <C1|C2>"),
        ("--spacings=coarse", "value should be one of <demo|paper>"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(flag, words, tmp_path):
    done = forked.run("experiments.synthesize", flag, f"--output={tmp_path / 'c'}")
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "c").exists()
