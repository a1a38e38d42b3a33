import numpy as np
import pytest

from experiments.results import case_rows, score_summary
from experiments.results.report_words import REPORTS
from federated.security import report_filter
from preprocessing import nifti
from preprocessing.volume import Volume


def row(number, pancreas, tumour, site="C1"):
    return {
        "model": "m",
        "site": site,
        "case": number,
        "grid": "training",
        "dice_pancreas": pancreas,
        "dice_tumour": tumour,
    }


def test_means_stand_with_their_interval_and_the_cases_behind_them():
    rows = [row(1, 0.5, None), row(2, 0.7, 0.0), row(3, 0.9, None)]
    summary = score_summary.of_rows(rows)
    assert (summary["dice_pancreas"].estimate, summary["dice_pancreas"].count) == (
        pytest.approx(0.7),
        3,
    )
    half = 4.30265 * (0.04 / 3) ** 0.5  # t(0.975, 2) times the standard error
    assert (summary["dice_pancreas"].low, summary["dice_pancreas"].high) == (
        pytest.approx(0.7 - half, abs=1e-4),
        1.0,
    )  # no Dice above 1
    assert (summary["dice_tumour"].estimate, summary["dice_tumour"].count) == (0.0, 1)
    assert "| dice | tumour | 0 | 0 to 0.975 | 1 |" in score_summary.markdown(
        summary
    )  # one case: the others' Dice may be anything
    one = score_summary.of_rows([{**row(1, 0.5, None), "volume_error_ml_pancreas": 3.0}])
    assert "| volume error ml | pancreas | 3 | ? to ? | 1 |" in score_summary.markdown(one)
    assert "? stands for an end" in score_summary.markdown(one)
    assert "?" not in score_summary.markdown(summary)  # there is no such end to explain
    assert "hd95_mm_pancreas" not in summary  # a column that no row has
    empty = score_summary.of_rows([row(1, 0.5, None)])
    assert empty["dice_tumour"] is None
    assert score_summary.lines(empty)[1] == {
        "measure": "dice", "class": "tumour", "unit": "", "mean": None, "low": None, "high": None, "cases": 0
    }  # fmt: skip
    assert "| dice | tumour |  |  | 0 |" in score_summary.markdown(empty)


def test_lines_of_a_federation_keep_models_and_sites_apart():
    lines = score_summary.by_model(
        [row(1, 0.5, None), row(1, 0.9, 0.3, site="C2"), row(2, 0.7, 0.5, site="C2")]
    )
    found = {(line["site"], line["class"]): (line["mean"], line["cases"]) for line in lines}
    assert found == {
        ("C1", "pancreas"): (0.5, 1), ("C1", "tumour"): (None, 0), ("C2", "pancreas"): (pytest.approx(0.8), 2), ("C2", "tumour"): (0.4, 2)
    }  # fmt: skip
    assert (
        score_summary.csv_text(lines).splitlines()[0]
        == "model,site,grid,measure,class,unit,mean,low,high,cases"
    )


def test_a_csv_file_has_numbers_to_read_and_not_their_last_bits():
    row = {
        "case": "a", "number": 1234567, "dice": 2 / 3, "worst": 0.0, "hd95_mm": 100 / 3,
        "truth_ml": 70.0, "share": 1 / 3e6, "numpy": np.float64(0.1) + 0.2, "error": -1 / 7,
        "absent": None,
    }  # fmt: skip
    assert score_summary.csv_text([row]).splitlines()[1] == (
        "a,1234567,0.666667,0.0,33.3333,70.0,3.33333e-07,0.3,-0.142857,"
    )


def test_files_on_one_grid_in_other_axis_orders_are_compared_where_their_voxels_lie(tmp_path):
    truth = np.zeros((8, 9, 6), np.uint8)
    truth[2:6, 3:7, 1:4], truth[5, 3, 1] = 1, 2
    affine = np.array([[0.8, 0, 0, 5], [0, 0.9, 0, 7], [0, 0, 2.5, -3], [0, 0, 0, 1.0]])
    flipped = affine.copy()
    flipped[:3, 0], flipped[:3, 3] = -affine[:3, 0], affine[:3, 3] + 7 * affine[:3, 0]
    nifti.write_volume(tmp_path / "truth.nii.gz", Volume(truth, affine))
    nifti.write_volume(tmp_path / "mask.nii.gz", Volume(truth[::-1], flipped))
    columns = case_rows.of_files(tmp_path / "mask.nii.gz", tmp_path / "truth.nii.gz", None, 1.0)
    assert (
        columns["dice_pancreas"] == columns["nsd_tumour"] == 1 and columns["hd95_mm_pancreas"] == 0
    )
    assert columns["volume_ml_tumour"] == pytest.approx(0.8 * 0.9 * 2.5 / 1000)
    assert "components_pancreas" not in columns and columns["components_tumour"] == 1
    flipped[0, 3] += 1
    nifti.write_volume(tmp_path / "moved.nii.gz", Volume(truth[::-1], flipped))
    with pytest.raises(ValueError, match=r"have different grids .corners 1 mm apart"):
        case_rows.of_files(tmp_path / "moved.nii.gz", tmp_path / "truth.nii.gz", None, 1.0)
    nifti.write_volume(tmp_path / "cropped.nii.gz", Volume(truth[:-1], affine))
    with pytest.raises(ValueError, match=r"have different grids .\(7, 9, 6\) and \(8, 9, 6\)"):
        case_rows.of_files(tmp_path / "cropped.nii.gz", tmp_path / "truth.nii.gz", None, 1.0)


def test_every_column_may_leave_a_site(tmp_path):
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1:3, 1:3, 1:3] = 2
    nifti.write_volume(tmp_path / "mask.nii.gz", Volume(mask, np.eye(4)))
    columns = case_rows.of_files(tmp_path / "mask.nii.gz", tmp_path / "mask.nii.gz", None, 2.0)
    (sent,) = report_filter.checked_rows(
        [{"model": "m", "site": "C1", "case": 1, "grid": "native", **columns}],
        vocabulary=REPORTS,
        site="C1",
        models=["m"],
    )
    assert sent["surface_volume_ratio_tumour"] > 0 and sent["hd95_mm_pancreas"] is None
