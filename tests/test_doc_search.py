"""The search's results in the docs come from its files, and its archive gives them again."""

import dataclasses
import json
import pathlib
import shutil
import tarfile

import pytest

from c2fnas import genotype
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.topology_space import TopologySpace
from experiments.reports import search_page
from experiments.search import evidence, search_state, topology_search
from experiments.search.evidence_settings import EvidenceSettings
from tests import doc_archives, doc_results, doc_search
from tests.experiments.search import test_evidence, test_whole_run

SPACE = TopologySpace(down=2, up=2, deepest=2, filters=4)
SETTINGS = EvolutionSettings(population=2, generations=1, parents=1, mutations=1, crossovers=1)
CHOSEN = EvidenceSettings(alone_steps=5, compared_seeds=3, noise_seeds=6, rank_paths=8)


def trained(one, label):
    """A training whose score depends on its genotype and a little on its seed."""
    number = int(evidence.fingerprint(one.genotype)[:4], 16) % 10
    return test_evidence.train(dataclasses.replace(one, network=f"path{number}"), label)


def compared_in(folder):
    """Returns the networks that the evidence of a search compares, and its paths."""
    found = {
        f"{stage}_{arm}": genotype.load(folder / stage / file).with_size(filters=4)
        for stage in doc_search.STAGES
        for arm, file in (("evolution", f"{stage}.json"), ("random", f"{stage}_random.json"))
    }
    published = genotype.load("c2fnas").with_size(filters=4)
    return evidence.networks(published, found), evidence.read_paths(
        folder / "operations" / "paths.json", 4
    )


@pytest.fixture
def search(tmp_path):
    """A finished search whose scores are made up."""
    folder = tmp_path / "runs" / "search_demo"
    (folder / "evidence").mkdir(parents=True)
    for name in ("run.flags", "experiment.flags"):
        (folder / name).write_text("--seed=1\n")
    times = {"cohort": 60.0, "topology": 600.0, "evidence": 1200.0, "page": 1.0}
    (folder / "stages.json").write_text(
        json.dumps({"wall_seconds": times, "peak_memory_bytes": 2**31})
    )
    first = topology_search.first_state(SPACE, SETTINGS, seed=1, about={})
    state = test_whole_run.finish(first, SPACE)
    for stage in doc_search.STAGES:
        (folder / stage).mkdir()
        space = (
            SPACE
            if stage == "topology"
            else OperationSpace(genotype.load(folder / "topology" / "topology.json"))
        )
        if stage == "operations":
            first = test_whole_run.federated_search.first_state(space, SETTINGS, seed=1, about={})
            state = test_whole_run.finish(first, space)
        search_state.write(folder / stage, state)
        names = (f"{stage}.json", f"{stage}_random.json")
        assert len(list(search_state.write_winners(state, space.genotype, folder / stage, names)))
    federated = folder / doc_search.FEDERATED
    federated.mkdir(parents=True)
    for name in ("search.json", "operations.json", "operations_random.json"):
        shutil.copy(folder / "operations" / name, federated)
    evidence.write_paths(folder / "operations" / "paths.json", test_evidence.PATHS)
    compared, paths = compared_in(folder)
    planned = evidence.plan(compared, paths, CHOSEN, about={"experiment": {"seed": 1}})
    evidence.keep_plan(folder / "evidence", planned)
    trainings = evidence.planned(compared, paths, CHOSEN, seed=1)
    evidence.run(trainings, folder / "evidence", trained)
    content = evidence.document(compared, paths, CHOSEN, folder / "evidence", seed=1)
    (folder / "evidence" / "evidence.json").write_text(json.dumps(content))
    return folder


def test_every_table_holds_what_the_search_found(search):
    content = doc_search.document(search, "a processor")
    assert content["processor"] == "a processor" and content["evidence"]["finished"]
    winners = doc_search.table(content, "Winners").splitlines()
    best = genotype.load(search / "operations" / "operations_random.json").name
    assert winners[2].startswith("| topology | evolution | 2 | `") and best in winners[5]
    assert winners[7].startswith("| operations, federated | random | 2 | `") and best in winners[7]
    claims = doc_search.table(content, "Claims").splitlines()
    assert len(claims) == 2 + len(content["evidence"]["verdicts"])
    assert "| the published genotype | c2fnas | 3 |" in doc_search.table(content, "Networks")
    assert search_page.tau_text(content["evidence"]["ranks"]) in doc_search.table(
        content, "Measures"
    )
    cost = doc_search.table(content, "Cost").splitlines()
    assert cost[-2:] == ["| all | 31:01 min |", "| peak memory | 2.0 GiB |"]
    with pytest.raises(ValueError, match="no table 'Prices'"):
        doc_search.table(content, "Prices")


def test_a_search_is_taken_into_the_docs_and_its_archive_continues_it(
    search, tmp_path, monkeypatch
):
    monkeypatch.setattr(doc_results, "DOCS", tmp_path / "docs")
    results = tmp_path / "docs" / "results"
    results.mkdir(parents=True)
    doc_results.take(search, "search", "a processor")
    kept = json.loads((results / "search.json").read_text())
    assert kept == doc_search.document(search, "a processor")
    page = "<!-- search: results/search.json, Winners -->\n"
    assert doc_results.rewritten(page) == page + doc_search.table(kept, "Winners")
    with tarfile.open(results / "search.tar.xz") as packed:
        packed.extractall(tmp_path / "else", filter="data")
    folder = tmp_path / "else" / "search_demo"
    # cohort and preparation are made again, because the archive holds no cases
    assert "cohort" not in json.loads((folder / "stages.json").read_text())["wall_seconds"]
    files = {path.relative_to(search) for path in search.rglob("*.json")}
    assert {path.relative_to(folder) for path in folder.rglob("*.json")} == files


def test_a_search_that_is_not_finished_is_only_packed(search, tmp_path, monkeypatch, capsys):
    (search / "stages.json").write_text('{"wall_seconds": {"cohort": 1.0}}')
    for name in ("evidence/evidence.json", "operations/search.json"):
        (search / name).unlink()
    monkeypatch.setattr(doc_results, "DOCS", tmp_path)
    (tmp_path / "results").mkdir()
    doc_results.take(search, "search", "a processor")
    assert "only what is finished is packed" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["search.tar.xz"]


def test_equal_files_give_equal_archives(tmp_path):
    for name in ("a.tar.xz", "b.tar.xz"):
        doc_archives.write(tmp_path / name, [("runs/x.json", b"{}"), ("runs/y", b"")])
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.xz") as packed:
        assert packed.getnames() == ["runs/x.json", "runs/y"]


def test_the_packed_search_in_the_docs_can_be_continued(tmp_path):
    archive = doc_results.DOCS / "results" / "search.tar.xz"
    if not archive.exists():
        pytest.skip("the docs have no packed search")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    done = json.loads((folder / "stages.json").read_text())["wall_seconds"]
    for stage in doc_search.STAGES:
        if stage in done:
            state = search_state.read(folder / stage)
            assert state.finished and genotype.load(folder / stage / f"{stage}.json")


KEPT = pathlib.Path(doc_results.DOCS) / "results" / "search.json"


@pytest.mark.skipif(not KEPT.exists(), reason="the docs have no finished search")
def test_the_verdicts_in_the_docs_follow_from_the_packed_trainings(tmp_path):
    with tarfile.open(KEPT.with_suffix(".tar.xz")) as packed:
        packed.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    plan = json.loads((folder / "evidence" / evidence.SETTINGS).read_text())
    chosen = EvidenceSettings(**plan["trainings"])
    compared, paths = compared_in(folder)
    seed = plan["experiment"]["seed"]
    found = evidence.document(compared, paths, chosen, folder / "evidence", seed=seed)
    assert json.loads(json.dumps(found)) == json.loads(KEPT.read_text())["evidence"]
