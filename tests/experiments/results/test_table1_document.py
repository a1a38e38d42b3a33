"""A table that came from somebody else: used, or refused in one line with its name."""

import json
import shutil

import pytest

from experiments.reports import result_verification, table1_report
from experiments.results import table1_document
from runkit import atomic
from tests import wrong_values
from tests.experiments import run_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run_folder.leave_verifiable(tmp_path_factory.mktemp("run"))


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def small(document):
    """Returns the document with two of its rows, so that every place of it can be tried."""
    return document | {"cases": [document["cases"][0], document["cases"][-1]]}


def test_what_a_run_writes_is_read_unchanged(folder):
    written = json.loads((folder / "table1.json").read_text())
    assert table1_document.read(folder / "table1.json") == written
    for later in ("patients", "devices", "fingerprints"):
        earlier = {key: value for key, value in written.items() if key != later}
        atomic.write_json(folder / "table1.json", earlier)
        assert table1_document.read(folder / "table1.json") == earlier


@pytest.mark.parametrize("value", [[], "text", 5, None])
def test_another_kind_of_file_is_named(folder, value):
    atomic.write_json(folder / "table1.json", value)
    with pytest.raises(ValueError, match=r"table1\.json: expected a JSON object with a table"):
        table1_document.read(folder / "table1.json")


def test_each_entry_that_is_missing_is_named(folder):
    document = atomic.read_json(folder / "table1.json")
    for key in document.keys() - {"patients", "devices", "fingerprints", "peak_memory_bytes"}:
        atomic.write_json(
            folder / "table1.json", {name: value for name, value in document.items() if name != key}
        )
        with pytest.raises(ValueError, match=rf"table1\.json: `{key}` is None; expected"):
            table1_document.read(folder / "table1.json")


def test_any_value_anywhere_is_verified_and_shown_or_refused_by_name(folder):
    file = folder / "table1.json"
    document = small(atomic.read_json(file))
    places = [place for place in wrong_values.places(document) if len(place) < 4]
    assert len(places) > 80
    for place in places:
        for changed in wrong_values.replaced(document, place):
            file.write_text(json.dumps(changed))
            try:
                table1_report.csv_text(table1_document.read(file))
                if place[0] in ("cases", "rows", "fingerprints"):
                    result_verification.verify(folder)
            except ValueError as error:
                assert str(error).startswith(f"{file}: "), (place, error)
                assert "\n" not in str(error) and len(str(error)) < len(str(file)) + 900


@pytest.mark.parametrize(
    "runs", [None, {}, [5], [{}], [{"folder": "../elsewhere", "fingerprints": {}}], [{"folder": 5}]]
)
def test_a_study_that_holds_something_else_is_named(folder, runs):
    atomic.write_json(folder / "study.json", {"runs": runs})
    with pytest.raises(ValueError, match=r"study\.json: `runs` is not a list of runs"):
        result_verification.study_check(folder)
