"""The program that makes Table 1."""

from tests.experiments.programs import refused, run


def test_no_profile_starts_no_table_of_weeks(tmp_path):
    done = run("table1", folder=tmp_path)
    assert (
        done.returncode == 1
        and "days on two cores" in done.stderr
        and "experiments/flagfiles/demo.flags" in done.stderr
    )
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_profile_without_its_flag_file_starts_no_table_of_weeks(tmp_path):
    error = refused("table1", "--profile=demo", "--seed=2", folder=tmp_path)
    assert error.startswith("--profile=demo only names the settings, and these are the paper's: ")
    assert "days on two cores" in error and "experiments/flagfiles/demo.flags" in error
    assert not list(tmp_path.iterdir())


def test_a_split_that_its_cohort_cannot_fill_is_refused_before_anything_is_made(tmp_path):
    flags = ("--profile=demo", "--cases_c1=10", "--split_c1=8,2,2")
    error = refused("table1", *flags, folder=tmp_path)
    assert error.startswith("site C1: the split has 12 cases, but the cohort only 10")
    assert not list(tmp_path.iterdir())
