"""Preparing one case: the stages reported, when it is repeated, and why it is refused."""

import dataclasses
import errno

import numpy as np
import pytest

from preprocessing import case_store, rules
from preprocessing.preparation import pipeline
from preprocessing.preparation.case_preparation import Prepared, prepare_case
from tests.preprocessing.preparation.test_pipeline import TARGET_MM, cohort

SETTINGS = {"target_mm": list(TARGET_MM), "window_hu": [-200.0, 250.0], "label_values": None}


@pytest.fixture
def case(tmp_path):
    return cohort(tmp_path, count=1).cases[0]


def prepare(case, folder, settings=SETTINGS):
    """Returns the result and the stages reported."""
    stages = []
    return prepare_case(case, folder, settings, report=stages.append), stages


def test_a_case_is_prepared_once_for_its_files_and_settings(case, tmp_path):
    first, stages = prepare(case, tmp_path / "store")
    assert isinstance(first, Prepared) and stages == ["reading", "resampling and writing"]
    again, stages = prepare(case, tmp_path / "store")
    assert again == first and stages == ["checking files"]
    other = {**SETTINGS, "window_hu": [-100.0, 200.0]}
    changed, stages = prepare(case, tmp_path / "store", other)
    assert changed == first and stages[1:] == ["reading", "resampling and writing"]


def test_the_store_has_what_the_cohort_of_one_would_have(case, tmp_path):
    prepare(case, tmp_path / "store")
    listed = cohort(tmp_path, count=3)
    whole = pipeline.prepare(listed, tmp_path / "cohort", target_mm=TARGET_MM, split_seed=1)
    alone = case_store.case_folder(tmp_path / "store", case.case_id)
    other = case_store.case_folder(tmp_path / "cohort", case.case_id)
    assert whole.case_ids() and sorted(path.name for path in alone.iterdir()) == sorted(
        path.name for path in other.iterdir()
    )
    for path in alone.glob("*.npy"):
        np.testing.assert_array_equal(np.load(path), np.load(other / path.name))


def test_whatever_is_wrong_with_a_case_is_returned_and_names_its_file(case, tmp_path):
    case.image.write_bytes(case.image.read_bytes()[:300])
    refused, _ = prepare(case, tmp_path / "store")
    assert isinstance(refused, rules.IntegrityError) and refused.file == str(case.image)
    gone = dataclasses.replace(case, label=tmp_path / "gone.nii.gz")
    refused, _ = prepare(gone, tmp_path / "store")
    assert isinstance(refused, rules.IntegrityError)
    assert not case_store.case_folder(tmp_path / "store", case.case_id).exists()


def test_a_store_that_cannot_be_written_is_not_the_fault_of_the_case(case, tmp_path, monkeypatch):
    def full(path, shape, slabs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(case_store, "_save_image", full)
    with pytest.raises(case_store.CannotWrite, match=r"image\.npy: cannot be written \(No space"):
        prepare(case, tmp_path / "store")
