import json
import tarfile

import pytest

from experiments.results import fingerprints
from tests import doc_results

PAGES = sorted(doc_results.DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_its_results(page):
    for table, expected in doc_results.marked(page.read_text(encoding="utf-8")):
        assert table == expected


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


ARCHIVES = [
    pytest.param(path, id=path.name)
    for path in sorted((doc_results.DOCS / "results").glob("*.tar.xz"))
    if path.name != "search.tar.xz"  # of a search: test_doc_search.py
] or [pytest.param(None, marks=pytest.mark.skip(reason="the docs have no study's packed runs"))]


@pytest.mark.parametrize("archive", ARCHIVES)
def test_the_packed_runs_of_a_study_give_its_results_again(archive, tmp_path):
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    name = archive.name.removesuffix(".tar.xz")
    documents = {
        str(path.parent.relative_to(tmp_path / name)): json.loads(path.read_text())
        for path in (tmp_path / name).glob("*/seed*/table1.json")
    }
    for folder, document in documents.items():
        assert folder.endswith(f"/seed{document['seed']}")
        assert fingerprints.of_rows(document["cases"]) == document["fingerprints"]["rows"]
    results = archive.with_name(f"{name}.json")
    if results.exists():  # the study is finished
        runs = json.loads(results.read_text(encoding="utf-8"))["runs"]
        assert {run["folder"]: run["fingerprints"]["rows"] for run in runs} == {
            folder: document["fingerprints"]["rows"] for folder, document in documents.items()
        }


def test_the_packed_runs_are_the_finished_ones_and_equal_files_give_equal_archives(tmp_path):
    content = study()
    content["runs"][0]["folder"] = "short/seed3"
    content["runs"].append({**content["runs"][0], "folder": "short/seed4", "state": "failed"})
    for name in doc_results.RUN_FILES:
        file = tmp_path / "toy" / "short" / "seed3" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}")
    archives = [tmp_path / "a.tar.xz", tmp_path / "b.tar.xz"]
    for archive in archives:
        doc_results.pack(content, tmp_path / "toy", archive)
        for name in doc_results.RUN_FILES:
            (tmp_path / "toy" / "short" / "seed3" / name).touch()
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as packed:
        assert packed.getnames() == [f"toy/short/seed3/{name}" for name in doc_results.RUN_FILES]
    doc_results.pack({**content, "runs": content["runs"][:1]}, tmp_path / "toy", archives[0])
    with tarfile.open(archives[0]) as packed:  # nothing is left to go on with
        assert packed.getnames() == [
            f"toy/short/seed3/{name}"
            for name in doc_results.RUN_FILES
            if name != "server/events.jsonl"
        ]


def test_a_run_whose_leakage_is_not_measured_is_not_finished(tmp_path):
    content = study()
    content["runs"][0]["folder"] = "short/seed3"
    content["runs"].append({**content["runs"][0], "seed": 4, "folder": "short/seed4"})
    content |= {"seeds": [3, 4], "leakage": {"seeds": {"short": 1}}}
    with pytest.raises(ValueError, match="short: membership inference measured in 1 runs"):
        doc_results.shortened(content, "a processor")
    for seed in (3, 4):
        for name in (*doc_results.RUN_FILES, doc_results.MEMBERSHIP):
            file = tmp_path / "toy" / "short" / f"seed{seed}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"content of {name}")
    (tmp_path / "toy" / "short" / "seed4" / doc_results.MEMBERSHIP).unlink()
    doc_results.pack(content, tmp_path / "toy", tmp_path / "toy.tar.xz")
    with tarfile.open(tmp_path / "toy.tar.xz") as packed:
        assert packed.getnames() == [
            f"toy/short/seed3/{name}" for name in (*doc_results.RUN_FILES, doc_results.MEMBERSHIP)
        ]
