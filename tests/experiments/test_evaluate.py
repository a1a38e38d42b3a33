import csv
import json

import numpy as np
import pytest

from preprocessing import nifti
from preprocessing.volume import Volume
from tests import forked
from tests.preprocessing.nifti_files import without_orientation

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])


def truth(shape=(16, 14, 10)):
    label = np.zeros(shape, np.uint8)
    label[4:10, 4:10, 3:7] = 1
    return label


def half():
    """Half of the label's voxels and nothing else: Dice 2/3."""
    mask = truth()
    mask[7:] = 0
    return mask


@pytest.fixture
def folders(tmp_path):
    """Five labels: a and d with a mask, b without one, c with a broken one, e without one.

    The patient of e is healthy.
    """
    for name, label in {
        "a": truth(),
        "b": truth(),
        "c": truth(),
        "d": truth(),
        "e": np.zeros_like(truth()),
    }.items():
        nifti.write_volume(tmp_path / "labels" / f"{name}.nii.gz", Volume(label, AFFINE))
    for name, mask in {"a": half(), "d": truth()}.items():
        nifti.write_volume(tmp_path / "masks" / f"{name}.nii.gz", Volume(mask, AFFINE))
    return tmp_path


def run(folder, *flags):
    return forked.run(
        "experiments.evaluate",
        f"--prediction={folder / 'masks'}",
        f"--truth={folder / 'labels'}",
        f"--output={folder / 'scores'}",
        *flags,
    )


def results(folder):
    with open(folder / "scores" / "cases.csv", newline="") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    return rows, json.loads((folder / "scores" / "summary.json").read_text())


def mean_dice(folder):
    with open(folder / "scores" / "summary.csv", newline="") as stream:
        return next(
            line
            for line in csv.DictReader(stream)
            if (line["measure"], line["class"]) == ("dice", "pancreas")
        )


def test_a_label_without_a_mask_is_an_error_and_no_mean_is_given(folders):
    (folders / "scores").mkdir()
    (folders / "scores" / "summary.md").write_text("means of an earlier run")
    done = run(folders)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "without a mask in" in done.stderr
        and "b, c, e" in done.stderr
        and "--missing=score_zero or --missing=skip" in done.stderr
    )
    assert [path.name for path in (folders / "scores").iterdir()] == [
        "cases.csv"
    ]  # what could be scored is there, no mean is


@pytest.mark.parametrize(
    ("policy", "mean", "cases", "scored"),
    [
        ("score_zero", (2 / 3 + 1 + 0 + 0) / 4, 4, 5),
        ("skip", (2 / 3 + 1) / 2, 2, 2),
    ],  # a class that is in neither does not count
)
def test_how_missing_masks_count_is_a_choice_that_the_results_name(
    folders, policy, mean, cases, scored
):
    done = run(folders, f"--missing={policy}")
    assert done.returncode == 0, done.stderr
    rows, summary = results(folders)
    assert (
        summary["missing"],
        summary["missing_masks"],
        summary["without_mask"],
        summary["scored"],
    ) == (
        policy,
        3,
        ["b", "c", "e"],
        scored,
    )
    line = mean_dice(folders)
    assert (float(line["mean"]), int(line["cases"])) == (pytest.approx(mean), cases)
    assert (line["missing"], line["missing_masks"]) == (policy, "3")
    assert (
        "Labels without a mask: 3; " in done.stdout
        and f"--missing={policy}): b, c, e." in done.stdout
    )
    if policy == "score_zero":
        extent_mm = np.linalg.norm([15 * 2, 13 * 2, 9 * 4])
        assert (
            rows["b"]["mask"] == "missing"
            and float(rows["b"]["dice_pancreas"]) == 0
            and rows["e"]["dice_pancreas"] == ""
        )
        assert (
            float(rows["b"]["hd95_mm_pancreas"]) == pytest.approx(extent_mm, rel=0.1)
            and rows["a"]["mask"] == ""
        )


def test_one_broken_mask_stops_no_other_and_is_counted(folders):
    whole = (folders / "masks" / "a.nii.gz").read_bytes()
    (folders / "masks" / "c.nii.gz").write_bytes(whole[: len(whole) // 2])
    nifti.write_volume(folders / "masks" / "stray.nii.gz", Volume(half(), AFFINE))
    nifti.write_volume(folders / "masks" / "f.nii.gz", Volume(half(), AFFINE))
    nifti.write_volume(folders / "labels" / "f.nii.gz", Volume(truth() * np.uint8(255), AFFINE))
    done = run(folders, "--missing=skip")
    assert (
        done.returncode == 1
        and "stray.nii.gz: " in done.stderr
        and "holds no label of this name" in done.stderr
        and "c.nii.gz" in done.stderr
    )
    assert (
        "--label_values=7:1" in done.stderr and "manifest" not in done.stderr
    )  # the remedy of this program
    assert done.stderr.strip().splitlines()[-1] == "3 of 7 cases could not be scored"
    rows, summary = results(folders)
    assert (
        set(rows) == {"a", "d"}
        and set(summary["failed"]) == {"c", "f", "stray"}
        and "could not be scored and are not in the means: 3" in done.stdout
    )


def test_names_and_suffixes_as_they_come(folders):
    (folders / "masks" / "a.nii.gz").rename(folders / "masks" / "a.NII.GZ")
    for kind in (
        "labels",
        "masks",
    ):  # a name that looks like a probability of a mask that is not there
        nifti.write_volume(folders / kind / "m.pancreas.nii.gz", Volume(truth(), AFFINE))
    nifti.write_volume(
        folders / "masks" / "d.tumour.nii.gz",
        Volume(np.full(truth().shape, 0.5, np.float32), AFFINE),
    )
    done = run(folders, "--missing=skip")
    assert done.returncode == 0, done.stderr
    assert set(results(folders)[0]) == {"a", "d", "m.pancreas"}
    nifti.write_volume(folders / "masks" / "d.nii", Volume(truth(), AFFINE))
    done = run(folders, "--missing=skip")
    assert done.returncode == 1 and "d.nii and " in done.stderr and "d.nii.gz" in done.stderr


def test_a_mask_without_an_orientation_needs_the_flag(folders):
    without_orientation(folders / "masks" / "a.nii.gz")
    done = run(folders, "--missing=skip")
    assert (
        done.returncode == 1
        and "a.nii.gz: its header gives no orientation" in done.stderr
        and "--orientation" in done.stderr
    )
    done = run(folders, "--missing=skip", "--orientation=RAS")
    assert done.returncode == 0 and float(
        results(folders)[0]["a"]["dice_pancreas"]
    ) == pytest.approx(2 / 3)
    done = run(folders, "--missing=skip", "--orientation=LAS")
    assert float(results(folders)[0]["a"]["dice_pancreas"]) < 0.6  # the other half is marked then
    assert "expected where the three axes" in run(folders, "--orientation=up").stderr


def test_results_do_not_replace_what_they_are_made_of(folders):
    (folders / "masks" / "cases.csv").symlink_to(folders / "labels" / "a.nii.gz")
    before = (folders / "labels" / "a.nii.gz").read_bytes()
    done = run(folders, "--missing=skip", f"--output={folders / 'masks'}")
    assert done.returncode == 1 and "would replace it" in done.stderr
    assert (folders / "labels" / "a.nii.gz").read_bytes() == before and (
        folders / "masks" / "cases.csv"
    ).is_symlink()


@pytest.mark.parametrize("tolerance", ["-1", "nan"])
def test_a_tolerance_that_is_no_length_is_named_and_nothing_is_written(folders, tolerance):
    done = run(folders, f"--tolerance_mm={tolerance}")
    assert done.returncode == 1 and "--tolerance_mm is " in done.stderr
    assert not (folders / "scores").exists()
