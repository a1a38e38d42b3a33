import json

import pytest

from tests import doc_results

PAGES = sorted(doc_results.DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_its_studies(page):
    for file, heading, table in doc_results.marked(page.read_text(encoding="utf-8")):
        study = json.loads((doc_results.DOCS / file).read_text(encoding="utf-8"))
        assert table == doc_results.table(study, heading), f"{file}, {heading}"


def study():
    run = {
        "label": "short",
        "seed": 3,
        "state": "finished",
        "failure": None,
        "wall_seconds": {"federation": 90.0, "table and figures": 30.0},
        "peak_memory_bytes": 3 * 2**30,
        "traffic": {"bytes": 5 * 2**20},
    }
    return {
        "name": "toy",
        "profile": "demo",
        "seeds": [3],
        "axis": "length",
        "runs": [run],
        "sweep": [{"label": "short", "table": {}, "wall_seconds": 120.0, "bytes": None}],
        "cases": [{"case": "C1_001"}],
    }


def test_a_table_is_found_by_its_heading():
    lines = doc_results.table(study(), "Cost").splitlines()
    assert lines[0] == "| run | wall time | peak memory | transferred |"
    assert lines[2:] == ["| short, seed 3 | 2.0 min | 3.0 GiB | 5 MiB |", "| total | 2.0 min | | |"]
    with pytest.raises(ValueError, match="no table below the heading 'Costs'"):
        doc_results.table(study(), "Costs")


def test_a_page_gets_the_tables_of_the_json(tmp_path, monkeypatch):
    monkeypatch.setattr(doc_results, "DOCS", tmp_path)
    (tmp_path / "results").mkdir()
    kept = doc_results.shortened(study(), "a processor")
    assert kept["processor"] == "a processor" and "cases" not in kept
    (tmp_path / "results" / "toy.json").write_text(json.dumps(kept))
    page = "Before.\n\n<!-- study: results/toy.json, Cost -->\n| old |\n\nAfter.\n"
    found = doc_results.rewritten(page)
    before, _, after = page.partition("| old |\n")
    assert found == before + doc_results.table(study(), "Cost") + after
    assert doc_results.rewritten(found) == found


def test_a_study_that_is_not_finished_is_not_taken():
    content = study()
    content["runs"][0]["state"] = "unfinished"
    with pytest.raises(ValueError, match="short, seed 3: unfinished"):
        doc_results.shortened(content, "a processor")
