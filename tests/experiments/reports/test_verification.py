import json
import subprocess
import sys

import pytest

from experiments.reports import table1_report, verification
from experiments.results import fingerprints
from runkit import atomic
from tests.experiments import run_folder


@pytest.fixture
def finished(tmp_path):
    atomic.write_bytes(tmp_path / "initial.safetensors", b"weights")
    atomic.write_json(
        tmp_path / "sites" / "C1" / "cases" / "index.json",
        {"site": "C1", "sources": {"a": "1f"}, "splits": {}},
    )
    rows = run_folder.rows()
    atomic.write_text(
        tmp_path / "server" / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
    )
    metadata = {
        "profile": "demo", "seed": 2, "stack": "s", "configuration": {}, "wall_seconds": {}, "fingerprints": fingerprints.of_run(tmp_path)
    }  # fmt: skip
    table1_report.write_table(tmp_path, rows, metadata)
    return tmp_path


def failing(folder):
    return [check.what for check in verification.verify(folder) if check.holds is False]


def test_an_untouched_run_holds(finished):
    checks = verification.verify(finished)
    assert [check.what for check in checks if check.holds is not True] == []
    assert {"table from its rows", "models initial", "data C1", "rows as the sites sent them"} <= {
        check.what for check in checks
    }


def changed(folder, edit):
    content = atomic.read_json(folder / "table1.json")
    edit(content)
    atomic.write_json(folder / "table1.json", content)


def test_a_number_of_the_table_that_was_touched_up_is_found(finished):
    changed(finished, lambda content: content["rows"]["FL_global"].update(C1_pancreas=80.2))
    assert failing(finished) == ["table from its rows", "table1.csv"]


def test_a_touched_row_is_found_even_where_the_table_was_made_to_match(finished):
    rows = run_folder.rows()
    rows[0]["dice_pancreas"] = 0.99
    recorded = atomic.read_json(finished / "table1.json")["fingerprints"]
    metadata = {"profile": "demo", "seed": 2, "stack": "s", "configuration": {}, "wall_seconds": {}}
    table1_report.write_table(finished, rows, metadata)
    changed(finished, lambda content: content.update(fingerprints=recorded))
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
    (check,) = [check for check in verification.verify(finished) if check.what == "models initial"]
    assert check.holds is None and check.detail == "not here"


def test_a_digest_of_rows_depends_on_their_content_alone():
    rows = run_folder.rows()
    assert fingerprints.of_rows(rows) == fingerprints.of_rows(
        [dict(reversed(row.items())) for row in rows[::-1]]
    )
    assert fingerprints.of_rows(rows) != fingerprints.of_rows(rows[1:])


def test_the_program_says_so_by_its_exit_code(finished):
    def run():
        command = [sys.executable, "-m", "experiments.verify", f"--run={finished}"]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    good = run()
    assert good.returncode == 0 and good.stdout.endswith("verified\n"), good.stderr
    changed(finished, lambda content: content["rows"]["FL_global"].update(average=99.0))
    bad = run()
    assert bad.returncode == 1 and "WRONG" in bad.stdout and "2 checks failed" in bad.stdout
    with pytest.raises(FileNotFoundError, match=r"no table1\.json here or below"):
        verification.runs_in(finished / "sites")


def test_a_measure_of_patients_that_was_touched_up_is_found_and_an_earlier_tables_absence_is_none(
    finished,
):
    content = table1_report.read(finished).document
    assert verification._patients(content).holds is True
    touched = json.loads(json.dumps(content))
    touched["patients"]["FL_global"]["specificity"]["estimate"] = 0.5
    found = verification._patients(touched)
    assert found.holds is False and found.detail == "FL_global"
    assert (
        verification._patients(
            {key: value for key, value in content.items() if key != "patients"}
        ).holds
        is None
    )
