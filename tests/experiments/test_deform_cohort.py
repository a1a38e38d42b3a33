"""The program that deforms scans: its flags reach the plan, and bad ones are named."""

import signal

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


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def made(folder):
    """Returns the files of the copies that are there, and when each was written."""
    paths = [*folder.glob("C?/images/C*.nii.gz"), *folder.glob("C?/labels/C*.nii.gz")]
    return {path: path.stat().st_mtime_ns for path in paths}


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_files(listed, tmp_path):
    flags = [f"--manifest={listed}", "--split_c1=1,1,2", "--split_c2=1,1,1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = forked.run("experiments.deform_cohort", *flags, f"--output={whole}")
    assert done.returncode == 0, done.stderr
    known = {}
    for point, files in (
        ("preprocessing.nifti.write_volume:after:5", 5),  # the third copy has no label yet
        ("os.replace:before:3", 6),  # in the middle of a file
        ("runkit.atomic.write_json:before:2", 14),  # all copies are there, and half a site's lists
    ):
        done = forked.run(
            "tests.experiments.killed_program",
            *(point, "experiments.deform_cohort"),
            *(*flags, f"--output={killed}"),
        )
        assert done.returncode == -signal.SIGKILL, (point, done.stderr)
        found = made(killed)
        assert len(found) == files, point
        whole_pairs = {p: at for p, at in known.items() if _other(p) in known}
        assert whole_pairs.items() <= found.items(), "a finished copy was made again"
        known = found
    done = forked.run("experiments.deform_cohort", *flags, f"--output={killed}")
    assert done.returncode == 0, done.stderr
    assert made(killed) == known
    assert contents(killed) == contents(whole)


def _other(path):
    """Returns the image of a label, and the label of an image."""
    folders = {"images": "labels", "labels": "images"}
    return path.parents[1] / folders[path.parent.name] / path.name
