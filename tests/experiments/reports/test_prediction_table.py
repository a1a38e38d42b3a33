"""The table of a prediction: rows are kept, replaced and written."""

import pathlib

import pytest

from experiments.models import scan_prediction
from experiments.reports import prediction_table
from tests.experiments.test_predict import table

FOUND = scan_prediction.Prediction(
    {"pancreas": 70.0, "tumour": 3.25}, {"pancreas": 1, "tumour": 2}, ("a note",)
)


def test_every_row_is_on_disk_as_its_scan_ends(tmp_path):
    path = tmp_path / "volumes.csv"
    rows = prediction_table.Table(path)
    rows.add(
        prediction_table.row(pathlib.Path("a.nii.gz"), pathlib.Path("m/a.nii.gz"), FOUND, 1.23)
    )
    assert table(path)["a.nii.gz"] == {
        "scan": "a.nii.gz", "mask": "m/a.nii.gz", "pancreas_ml": "70.0", "tumour_ml": "3.25", "pancreas_components": "1",
        "tumour_components": "2", "seconds": "1.2", "note": "a note", "tumour_score": "", "gate": "",
    }  # fmt: skip
    rows.add(prediction_table.failed_row(pathlib.Path("b.nii.gz"), "a reason"))
    assert list(table(path)) == ["a.nii.gz", "b.nii.gz"]
    kept = prediction_table.Table(path)
    assert kept.has_mask(pathlib.Path("m/../m/a.nii.gz")) and not kept.has_mask(
        pathlib.Path("b.nii.gz")
    )
    kept.add(prediction_table.row(pathlib.Path("b.nii.gz"), pathlib.Path("m/b.nii.gz"), FOUND))
    assert [row["mask"] for row in table(path).values()] == ["m/a.nii.gz", "m/b.nii.gz"]


def test_rows_and_columns_that_a_reader_added_stay(tmp_path):
    path = tmp_path / "volumes.csv"
    path.write_text("scan,mask,reader\nold.nii.gz,m/old.nii.gz,by hand\n")
    prediction_table.Table(path).add(
        prediction_table.row(pathlib.Path("a.nii.gz"), pathlib.Path("m/a.nii.gz"), FOUND)
    )
    found = table(path)
    assert list(found) == ["old.nii.gz", "a.nii.gz"]
    assert found["old.nii.gz"]["reader"] == "by hand" and found["a.nii.gz"]["reader"] == ""


def test_a_table_of_something_else_is_not_taken_for_one(tmp_path):
    (tmp_path / "t.csv").write_text("patient,age\n1,60\n")
    with pytest.raises(ValueError, match=r"t\.csv: is not a table of predictions"):
        prediction_table.Table(tmp_path / "t.csv")


def test_rows_that_cannot_be_written_wait_for_the_next_time(tmp_path):
    rows = prediction_table.Table(tmp_path / "sub" / "t.csv")
    (tmp_path / "sub").write_text("a file where a folder must be")
    with pytest.raises(ValueError, match=r"t\.csv: cannot be written"):
        rows.add(prediction_table.failed_row(pathlib.Path("a.nii.gz"), "x"))
    (tmp_path / "sub").unlink()
    rows.add(prediction_table.failed_row(pathlib.Path("b.nii.gz"), "y"))
    assert list(table(tmp_path / "sub" / "t.csv")) == ["a.nii.gz", "b.nii.gz"]
