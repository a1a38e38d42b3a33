import numpy as np
import pytest

from federated.errors import PrivacyRefused
from federated.security import report_filter

ROW = {"model": "FL_global", "site": "C1", "case": 7, "grid": "native", "dice_pancreas": 0.5, "dice_tumour": None, "volume_ml_tumour": 3}


def check(**changes):
    return report_filter.check_rows([{**ROW, **changes}], site="C1", models=["FL_global"])


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
        ({"case": 0}, "running number"),
        ({"case": 19840312}, "running number"),
        ({"case": True}, "running number"),
        ({"case": 1.5}, "running number"),
        ({"site": "C2"}, "column 'site' is none of C1"),
        ({"model": "/data/doe"}, "column 'model' is none of FL_global"),
        ({"grid": "Doe"}, "column 'grid' is none of native, training"),
        ({"class": "Doe"}, "column 'class' is none of pancreas, tumour"),
        ({"model": ["FL_global"]}, "column 'model'"),
    ],
)
def test_everything_else_stays_and_is_not_repeated_in_the_error(changes, message):
    with pytest.raises(PrivacyRefused, match=message) as caught:
        check(**changes)
    for secret in ("oe", "1984", "021"):
        assert secret not in str(caught.value)


def test_a_row_needs_its_keys():
    with pytest.raises(PrivacyRefused, match="row 2: column 'case' is missing"):
        report_filter.check_rows([ROW, {k: v for k, v in ROW.items() if k != "case"}], site="C1", models=["FL_global"])


def test_metrics_are_short_names_and_finite_numbers():
    assert report_filter.check_metrics({"loss/dice": np.float32(0.5), "dice_1": 1, "dice_tumour": None}, what="scores") == {
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
