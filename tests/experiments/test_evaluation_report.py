"""The program that writes the tables of an evaluation."""

import csv
import json
import shutil

import pytest

from tests import forked
from tests.experiments import evaluated_store
from tests.experiments.programs import refused


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return evaluated_store.leave(tmp_path_factory.mktemp("evaluation"))


def test_the_tables_are_written_and_named_with_what_they_are_of(store, tmp_path):
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    output = tmp_path / "a" / "report"
    done = forked.run("experiments.evaluation_report", f"--store={store}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    *paths, title = done.stdout.splitlines()
    kinds = ("json", "csv", "md", "html")
    assert paths == [str(output / f"evaluation.{kind}") for kind in kinds]
    assert sorted(paths) == sorted(map(str, output.iterdir()))
    assert title == "Evaluation of 2 models at 2 sites"
    assert json.loads((output / "evaluation.json").read_text())["finished"]
    with open(output / "evaluation.csv", newline="") as file:
        assert {line["model"] for line in csv.DictReader(file)} == set(evaluated_store.MODELS)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_rows_that_are_not_those_of_the_log_get_no_tables(store, tmp_path):
    copy, output = tmp_path / "changed", tmp_path / "report"
    shutil.copytree(store, copy)
    rows = copy / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"dice_pancreas": 0.9', '"dice_pancreas": 0.99', 1))
    error = refused("evaluation_report", f"--store={copy}", f"--output={output}")
    assert "rows of site 'C1'" in error and not output.exists()


def test_tables_that_would_lie_in_the_store_are_refused(store):
    error = refused("evaluation_report", f"--store={store}", f"--output={store / 'report'}")
    assert "--output" in error and "lies in the input" in error and "--store" in error
    assert not (store / "report").exists()
