"""The program that overfits one scan."""

import os
import pathlib

import numpy as np
import pytest

from preprocessing import nifti
from tests import forked
from tests.experiments.programs import refused


def test_a_real_scan_is_learnt_and_its_prediction_lies_on_its_own_grid(tmp_path):
    folder = os.environ.get("REAL_CT_FOLDER")
    if not folder:
        pytest.skip(
            "REAL_CT_FOLDER names no folder with ct.nii.gz and organs.nii.gz (7 = pancreas)"
        )
    image = pathlib.Path(folder) / "ct.nii.gz"
    flags = [
        f"--flagfile={forked.ROOT / 'experiments' / 'flagfiles' / 'demo.flags'}",
        f"--image={image}",
        "--label_values=7:1",
    ]
    done = forked.run(
        "experiments.overfit",
        *flags,
        f"--label={pathlib.Path(folder) / 'organs.nii.gz'}",
        f"--output={tmp_path}",
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    mask, ct = nifti.read_labels(tmp_path / "prediction.nii.gz"), nifti.read_ct(image)
    assert mask.shape == ct.shape and mask.affine.tobytes() == ct.affine.tobytes()
    truth = nifti.read_labels(pathlib.Path(folder) / "organs.nii.gz", {7: 1})
    assert (
        2
        * np.sum((mask.array == 1) & (truth.array == 1))
        / (np.sum(mask.array == 1) + np.sum(truth.array == 1))
        > 0.8
    )


def test_pairs_of_label_values_and_an_output_over_the_scan_are_refused(tmp_path):
    (tmp_path / "ct.nii").write_bytes(b"")
    flags = ("--image=ct.nii", "--label=ct.nii", "--seed=1")
    error = refused("overfit", *flags, "--output=o", "--label_values=7", folder=tmp_path)
    assert error == "--label_values is '7'; expected value:class pairs, e.g. 7:1"
    (tmp_path / "prediction.nii.gz").write_bytes(b"")
    flags = ("--image=prediction.nii.gz", "--label=ct.nii", "--output=.", "--seed=1")
    error = refused("overfit", *flags, folder=tmp_path)
    assert "prediction.nii.gz" in error and "--image" in error


def test_a_refused_scan_is_one_error_with_a_remedy_that_this_program_has(tmp_path):
    flags = ["--image=absent.nii.gz", "--label=absent.nii.gz", f"--output={tmp_path / 'out'}"]
    done = forked.run("experiments.overfit", *flags, folder=tmp_path)
    assert done.returncode == 1 and "absent.nii.gz: no such file" in done.stderr
    assert "correct the path" in done.stderr and "--nostrict" not in done.stderr


def test_numbers_of_steps_are_at_least_one(tmp_path):
    for name in ("max_steps", "score_every"):
        done = forked.run("experiments.overfit", f"--{name}=0", folder=tmp_path)
        assert done.returncode == 1 and f"--{name} is '0'" in done.stderr
