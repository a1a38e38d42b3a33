"""The operator's side of a federated search, with rows written by hand."""

import dataclasses
import json

import pytest

from c2fnas.genotype import Genotype
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.operation_space import OperationSpace
from experiments.results import path_names
from experiments.search import federated_search, search_state
from runkit import events
from tests.experiments.study import GENOTYPE

SPACE = OperationSpace(Genotype.from_json(GENOTYPE))  # 27 paths
SETTINGS = EvolutionSettings(population=3, generations=3, parents=2, mutations=2, crossovers=1)
PATCH = (16, 16, 8)


def first():
    return federated_search.first_state(SPACE, SETTINGS, seed=4, about={"spacing": 3})


def row(name, site, case, pancreas, tumour=None, grid="validation"):
    return {
        "model": name, "site": site, "case": case, "grid": grid,
        "dice_pancreas": pancreas, "dice_tumour": tumour,
        "volume_ml_pancreas": 1.0, "volume_ml_tumour": 1.0,
        "truth_ml_pancreas": 5.0, "truth_ml_tumour": 0.0 if site == "C1" else 2.0,
    }  # fmt: skip


def answer(store, genes, score, *, sites=("C1", "C2"), finished=True, case=1):
    """Writes the rows of sites for paths, as a server's store has them."""
    store.mkdir(parents=True, exist_ok=True)
    log = events.EventLog(store / "events.jsonl")
    log.append("rows", site="C1")
    if finished:
        log.append("finished", rounds=0)
    lines = []
    for gene in genes:
        name = path_names.name_of(gene)
        both = (
            row(name, "C1", case, score(gene), 0.0),
            row(name, "C2", 1, score(gene), score(gene)),
        )
        lines += [one for one in both if one["site"] in sites]
    (store / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def score(gene):
    return (sum(gene) + 1) / 10


def test_scores_take_the_classes_that_a_label_shows_and_the_validation_alone():
    rows = [
        row("path_0", "C1", 1, 0.6, 0.0),
        row("path_0", "C2", 1, 0.5, 0.3),
        row("path_0", "C2", 2, 0.4, None),  # a tumour that is there and has no score counts as 0
        row("path_0", "C2", 1, 0.9, 0.9, grid="training"),
        row("path_0", "C1", 1, 0.8, 0.0),  # the latest row of a case counts
    ]
    assert federated_search.scores(rows) == {"path_0": {"C1": [0.8], "C2": [0.4, 0.2]}}


def test_generation_after_generation_until_both_arms_have_their_budget(tmp_path):
    trained = tmp_path / "supernet.safetensors"
    trained.write_bytes(b"weights")
    state, stores = first(), []
    while (waiting := federated_search.next_list(state, tmp_path, trained)) is not None:
        file, store = waiting
        stores.append(store.name)
        unchanged = federated_search.take_rows(SPACE, state, tmp_path, PATCH)
        assert unchanged == state  # there are no rows yet
        paths = json.loads(file.read_text())["paths"]
        assert len(set(paths)) == len(paths) <= 6
        answer(store, [path_names.gene_of(name) for name in paths], score)
        state = federated_search.take_rows(SPACE, state, tmp_path, PATCH)
    assert stores == ["generation_01", "generation_02", "generation_03"]
    assert [len(arm.scored) for arm in state.arms.values()] == [9, 9]
    for arm in state.arms.values():
        for one in arm.scored:
            assert one.score == pytest.approx(score(one.gene))
            assert one.details["macs"] == SPACE.genotype(one.gene).macs(PATCH)
    assert federated_search.scored_on(first()) == ""
    assert federated_search.scored_on(state) == " on validation cases, 1 of C1, 1 of C2"
    lines = list(federated_search.write_winner(SPACE, state, tmp_path))
    assert all("on validation cases, 1 of C1, 1 of C2, 9 scored" in line for line in lines[:2])
    best = max(state.arms["evolution"].scored, key=lambda one: one.score)
    written = Genotype.from_json(json.loads((tmp_path / "operations.json").read_text()))
    assert written == SPACE.genotype(best.gene) and written.name in lines[0]


def test_an_evaluation_that_is_still_going_on_is_refused_though_a_site_has_scored_all(tmp_path):
    """The server's rows are there as soon as the first site has sent its own."""
    store, asked = tmp_path / "generation_01", federated_search.batch(first())
    answer(store, asked, score, sites=("C1",), finished=False)
    with pytest.raises(ValueError, match="generation_01: the evaluation is not finished"):
        federated_search.take_rows(SPACE, first(), tmp_path, PATCH)
    answer(store, asked, score)
    found = federated_search.take_rows(SPACE, first(), tmp_path, PATCH)
    (gene, *_), arm = asked, found.arms["evolution"].scored
    details = next(one.details for one in (*arm, *found.arms["random"].scored) if one.gene == gene)
    assert (details["cases_C1"], details["cases_C2"]) == (1.0, 1.0)


def test_rows_of_another_list_or_of_other_cases_are_refused(tmp_path):
    store, asked = tmp_path / "generation_01", federated_search.batch(first())
    answer(store, asked[:-1], score)
    with pytest.raises(ValueError, match=f"has no rows of {path_names.name_of(asked[-1])}"):
        federated_search.take_rows(SPACE, first(), tmp_path, PATCH)
    answer(store, asked, score)
    rows = (store / "rows.jsonl").read_text().splitlines()
    (store / "rows.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(ValueError, match="different cases, 1 of C1 and 1 of C1, 1 of C2"):
        federated_search.take_rows(SPACE, first(), tmp_path, PATCH)
    # a site that is missing in a later generation
    answer(store, asked, score)
    state = federated_search.take_rows(SPACE, first(), tmp_path, PATCH)
    answer(tmp_path / "generation_02", federated_search.batch(state), score, sites=("C1",))
    with pytest.raises(ValueError, match="different cases, 1 of C1, 1 of C2 and 1 of C1, so"):
        federated_search.take_rows(SPACE, state, tmp_path, PATCH)


def test_rows_of_as_many_other_cases_are_refused(tmp_path):
    """Such as those of a site that has prepared its cases again with another split."""
    store, asked = tmp_path / "generation_01", federated_search.batch(first())
    answer(store, asked, score)
    lines = (store / "rows.jsonl").read_text().splitlines()
    mixed = [lines[0].replace('"case": 1', '"case": 2'), *lines[1:]]
    (store / "rows.jsonl").write_text("".join(f"{line}\n" for line in mixed))
    with pytest.raises(ValueError, match="different cases"):
        federated_search.take_rows(SPACE, first(), tmp_path, PATCH)
    answer(store, asked, score)
    state = federated_search.take_rows(SPACE, first(), tmp_path, PATCH)
    search_state.write(tmp_path, state)
    state = search_state.read(tmp_path)
    store = tmp_path / "generation_02"
    answer(store, federated_search.batch(state), score, case=2)
    with pytest.raises(ValueError, match="different cases, 1 of C1, 1 of C2 and 1 of C1, 1 of C2"):
        federated_search.take_rows(SPACE, state, tmp_path, PATCH)
    # a search that an earlier release began: it knows how many cases there were, not which
    old = json.loads((tmp_path / "search.json").read_text())
    for arm in old["arms"].values():
        for one in arm["candidates"]:
            one["details"].pop(federated_search.WHICH, None)
    (tmp_path / "search.json").write_text(json.dumps(old))
    found = federated_search.take_rows(SPACE, search_state.read(tmp_path), tmp_path, PATCH)
    assert found.scored > state.scored


def test_only_a_search_of_the_same_paths_stands_beside_it(tmp_path):
    with pytest.raises(ValueError, match=r"--pooled is .*, which holds no search\.json"):
        federated_search.pooled_search(tmp_path, SPACE)
    about = {"experiment": {"genotype": SPACE.base.to_json()}}
    pooled = federated_search.first_state(SPACE, SETTINGS, seed=4, about=about)
    search_state.write(tmp_path, pooled)
    assert federated_search.pooled_search(tmp_path, SPACE) == pooled
    search_state.write(tmp_path, dataclasses.replace(pooled, settings={"experiment": "mine"}))
    with pytest.raises(ValueError, match="of another genotype or width"):
        federated_search.pooled_search(tmp_path, SPACE)
    search_state.write(tmp_path, pooled)
    wider = OperationSpace(SPACE.base.with_size(filters=8))
    with pytest.raises(ValueError, match="of another genotype or width"):
        federated_search.pooled_search(tmp_path, wider)
    # genes of a topology may look like those of a path
    topologies = dataclasses.replace(pooled, stage="topology")
    search_state.write(tmp_path, topologies)
    with pytest.raises(ValueError, match="holds a search of topology"):
        federated_search.pooled_search(tmp_path, SPACE)


def test_the_state_is_that_of_every_search(tmp_path):
    search_state.write(tmp_path, first())
    assert search_state.resumed(tmp_path, first()) == first()
    trained = tmp_path / "a"
    trained.write_bytes(b"1")
    assert len(federated_search.digest(trained)) == 64
    with pytest.raises(ValueError, match=r"--trained is .*none, which does not exist"):
        federated_search.digest(tmp_path / "none")
