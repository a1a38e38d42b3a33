import numpy as np
import pytest

from federated.errors import PrivacyRefused
from federated.security import report_filter
from tests.federated import toy

ROW = {
    "model": "FL_global",
    "site": "C1",
    "case": 7,
    "grid": "native",
    "dice_pancreas": 0.5,
    "dice_tumour": None,
    "volume_ml_tumour": 3,
}


def check(**changes):
    return check_rows([{**ROW, **changes}])


def check_rows(rows):
    return list(
        report_filter.checked_rows(rows, vocabulary=toy.VOCABULARY, site="C1", models=["FL_global"])
    )


def test_a_good_row_passes_as_plain_values():
    (row,) = check(dice_pancreas=np.float32(0.5), truth_ml_pancreas=np.int64(81))
    assert row == {**ROW, "dice_pancreas": 0.5, "volume_ml_tumour": 3.0, "truth_ml_pancreas": 81.0}
    assert type(row["dice_pancreas"]) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient": 5}, "column 8 has an unknown name"),
        ({"dice_doe": 0.5}, "column 8 has an unknown name"),
        ({"volume_19840312": 0.5}, "column 8 has an unknown name"),
        ({"dice_pancreas": "Doe, Jane"}, "'dice_pancreas' is not a number"),
        ({"dice_pancreas": b"Doe"}, "is not a number"),
        ({"dice_pancreas": [0.1]}, "is not a number"),
        ({"dice_pancreas": np.zeros(3)}, "is not a number"),
        ({"dice_pancreas": True}, "is not a number"),
        ({"dice_pancreas": float("nan")}, "is not finite"),
        ({"case": "pancreas_021"}, "column 'case' is not a running number"),
        ({"case": np.int64(1)}, r"column 'case' is not a running number \(a Python int\)"),
        ({"case": 0}, "running number"),
        ({"case": 19840312}, "running number"),
        ({"case": True}, "running number"),
        ({"case": 1.5}, "running number"),
        ({"site": "C2"}, "column 'site' is not one of C1"),
        ({"model": "/data/doe"}, "column 'model' is not one of FL_global"),
        ({"grid": "Doe"}, "column 'grid' is not one of native, training"),
        ({"class": "Doe"}, "column 'class' is not one of pancreas, tumour"),
        ({"model": ["FL_global"]}, "column 'model'"),
    ],
)
def test_everything_else_stays_and_is_not_repeated_in_the_error(changes, message):
    with pytest.raises(PrivacyRefused, match=message) as caught:
        check(**changes)
    for secret in ("oe", "1984", "021"):
        assert secret not in str(caught.value)


def test_scores_and_counts_of_a_patient_pass_and_are_bounded():
    counts = {
        "truth_components_tumour": 2,
        "components_tumour": 5,
        "found_tumour": 2,
        "false_components_tumour": 3,
        "score_tumour": 7.25,
    }
    (row,) = check(**counts)
    assert {key: row[key] for key in counts} == counts and type(row["found_tumour"]) is float
    assert check(found_tumour=None, false_components_tumour=None, score_tumour=None)
    for changes, message in (
        ({"score_tumour": 1000.5}, "'score_tumour' is 1000.5; expected 0 to 1000"),
        ({"score_tumour": -1.0}, "expected 0 to 1000"),
        ({"score_tumour": [1.0, 2.0]}, "is not a number"),
        ({"score_doe": 1.0}, "unknown name"),
        ({"found_tumour": 0.5}, "'found_tumour' is 0.5; expected a whole number"),
        ({"found_tumour": -1}, "expected 0 to"),
        ({"found_tumour": 3}, "is 3, more than the 2 in 'truth_components_tumour'"),
        ({"false_components_tumour": 6}, "is 6, more than the 5 in 'components_tumour'"),
        ({"false_components_tumour": 2.0001}, "whole number"),
    ):
        with pytest.raises(PrivacyRefused, match=message):
            check(**{**counts, **changes})


def test_a_row_needs_its_keys():
    with pytest.raises(PrivacyRefused, match="row 2: column 'case' is missing"):
        check_rows([ROW, {k: v for k, v in ROW.items() if k != "case"}])


def test_metrics_are_short_names_and_finite_numbers():
    assert report_filter.check_metrics(
        {"loss/dice": np.float32(0.5), "dice_1": 1, "dice_tumour": None}, what="scores"
    ) == {
        "loss/dice": 0.5,
        "dice_1": 1.0,
    }
    for bad, message in (
        ({"Doe, Jane": 1.0}, "name of value 1"),
        ({"mrn_20231": 1.0}, "name of value 1"),
        ({"loss": float("inf")}, "loss is not finite"),
        ({"loss": "0.5"}, "loss is not a number"),
        ({f"a{chr(97 + i // 26)}{chr(97 + i % 26)}": 1.0 for i in range(65)}, "65 values"),
    ):
        with pytest.raises(PrivacyRefused, match=message):
            report_filter.check_metrics(bad, what="scores")
