import json

import pytest

from experiments.reports import result_verification, table1_report
from runkit import atomic
from tests.experiments import run_folder


@pytest.fixture
def finished(tmp_path):
    return run_folder.leave_verifiable(tmp_path)


def failing(folder):
    return [check.what for check in result_verification.verify(folder) if check.holds is False]


def test_an_untouched_run_holds(finished):
    checks = result_verification.verify(finished)
    assert [check.what for check in checks if check.holds is not True] == []
    assert {"table from its rows", "models initial", "data C1", "rows as the sites sent them"} <= {
        check.what for check in checks
    }


def test_a_number_of_the_table_that_was_touched_up_is_found(finished):
    run_folder.change_table(
        finished, lambda content: content["rows"]["FL_global"].update(C1_pancreas=80.2)
    )
    assert failing(finished) == ["table from its rows", "table1.csv"]


def test_a_touched_row_is_found_even_where_the_table_was_made_to_match(finished):
    rows = run_folder.rows()
    rows[0]["dice_pancreas"] = 0.99
    recorded = atomic.read_json(finished / "table1.json")["fingerprints"]
    metadata = {"profile": "demo", "seed": 2, "stack": "s", "configuration": {}, "wall_seconds": {}}
    table1_report.write_table(finished, table1_report.document(rows, metadata))
    run_folder.change_table(finished, lambda content: content.update(fingerprints=recorded))
    assert failing(finished) == ["rows inside the table", "rows as the sites sent them"]


def test_another_model_or_other_data_are_found_and_what_is_away_is_no_failure(finished):
    atomic.write_bytes(finished / "initial.safetensors", b"others")
    atomic.write_json(
        finished / "sites" / "C1" / "cases" / "index.json",
        {"site": "C1", "sources": {"a": "2f"}, "splits": {}},
    )
    assert failing(finished) == ["models initial", "data C1"]
    (finished / "initial.safetensors").unlink()
    assert failing(finished) == ["data C1"]
    (check,) = [
        check for check in result_verification.verify(finished) if check.what == "models initial"
    ]
    assert check.holds is None and check.detail == "not here"


def test_a_measure_of_patients_that_was_touched_up_is_found_and_an_earlier_tables_absence_is_none(
    finished,
):
    content = table1_report.read(finished).document
    assert result_verification._patients(content).holds is True
    touched = json.loads(json.dumps(content))
    touched["patients"]["FL_global"]["specificity"]["estimate"] = 0.5
    found = result_verification._patients(touched)
    assert found.holds is False and found.detail == "FL_global"
    assert (
        result_verification._patients(
            {key: value for key, value in content.items() if key != "patients"}
        ).holds
        is None
    )
