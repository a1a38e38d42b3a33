import typing

import pytest

from experiments.results import case_rows, shared_choice, table1_values
from experiments.results.report_words import REPORTS
from federated.errors import PrivacyRefused
from federated.security import report_filter


def test_every_measure_of_every_class_may_leave_a_site():
    columns = [
        f"{measure}_{name}" for measure in case_rows.UNITS for name in ("pancreas", "tumour")
    ]
    row = {"model": "m", "site": "C1", "case": 1, **dict.fromkeys(columns, 0.5)}
    row |= {column: 1.0 for column in columns if "found" in column or "components" in column}
    for grid in (*table1_values.GRIDS, shared_choice.GRID):
        sent = {**row, "grid": grid, "class": "tumour"}
        (passed,) = report_filter.checked_rows([sent], vocabulary=REPORTS, site="C1", models=["m"])
        assert passed == sent
    assert case_rows.SCORE in columns


@pytest.mark.parametrize(
    ("score", "value"),
    [
        ("dice", 1.01),
        ("dice_pancreas", -0.01),
        ("nsd", 2.0),
        ("hd95_mm", -1.0),
        ("volume_error_ml", 1e7),
        ("truth_ml", -1.0),
        ("voxels", 1e13),
        ("score", 1000.5),
        ("sensitivity", 1.5),
    ],
)
def test_a_value_that_no_scan_can_have_stays(score, value):
    with pytest.raises(PrivacyRefused, match=f"scores: {score} is .*; expected"):
        report_filter.check_scores({score: value}, vocabulary=REPORTS, what="scores")


def test_a_row_without_what_every_table_needs_is_refused_where_it_arrives():
    keys = {"model": "m", "site": "C1", "case": 1, "grid": "training"}
    row = {**keys, **dict.fromkeys(case_rows.REQUIRED[len(keys) :], 0.5)}

    def passes(changed):
        try:
            list(report_filter.checked_rows([changed], vocabulary=REPORTS, site="C1", models=["m"]))
        except PrivacyRefused as error:
            assert "no table can be made of rows without it" in str(error)
            return False
        return True

    assert passes(row)
    hints = typing.get_type_hints(case_rows.CaseRow)
    for column in row.keys() - keys.keys():
        assert not passes({name: value for name, value in row.items() if name != column})
        assert passes({**row, column: None}) == (type(None) in typing.get_args(hints[column]))
