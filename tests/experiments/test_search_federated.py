"""A supernet that two sites train together over TLS, and the search of its paths by rows."""

import json
import pathlib

import numpy as np
import pytest

from c2fnas import genotype
from c2fnas.search import path_weights
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.paths import path_at
from experiments.search import search_state
from federated.tensors import tensor_files
from tests import forked
from tests.experiments.programs import refused
from tests.experiments.search import prepared_sites
from tests.experiments.study import CASES, SHALLOW, Study

SEARCH = {"population": 1, "generations": 1, "parents": 1, "mutations": 0, "crossovers": 0}
SPACE = OperationSpace(genotype.Genotype.from_json(SHALLOW))


class Walk(Study):
    """Programs of a federated search, all with --supernet."""

    def flags(self, **changes):
        least = {"supernet": "true", "vae": "none", "local_epochs": 1, "num_rounds": 1}
        return super().flags(**{**least, **changes})

    def lead(self, name, **changes):
        """Runs a server and both sites until they end."""
        store = self.folder / name
        with self.group() as group:
            server, port = self.serve(group, store, **changes)
            rounds = {"num_rounds": 0} if changes.get("num_rounds") == 0 else {}
            sites = [self.join(group, site, port, lend=False, **rounds) for site in CASES]
            group.wait([*sites, server], name)
        return store

    def propose(self, trained, **changes):
        about = {"trained": trained, "output": self.folder / "search", **SEARCH, **changes}
        done = forked.run("experiments.search_federated", *self.flags(**about))
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    found = Walk(tmp_path_factory.mktemp("federated_search"), genotype=SHALLOW)
    prepared_sites.make(found)
    with found.group() as group:
        kits = [f"--output={found.kits}", "--port=0"]
        programs = [group.start("kits", "experiments.provision", kits)]
        initial = found.flags(output=found.initial, threads=1)
        programs.append(group.start("init", "experiments.init_model", initial))
        group.wait(programs, "preparation")
    return found


def test_sites_train_a_supernet_and_its_paths_are_picked_by_rows_alone(walk):
    store = walk.lead("supernet")
    trained = store / "global" / "round_001.safetensors"
    weights, _ = tensor_files.load(trained)
    start, _ = tensor_files.load(walk.initial)
    changed = {name for name in weights if (weights[name] != start[name]).any()}
    assert any("/op/" not in name for name in changed)
    # a round of two steps: both sites took the same paths, and nothing beside them was trained
    taken = [path_at(SPACE, 5, 1, step) for step in (0, 1)]
    operations = {
        (cell, SPACE.operations[choice])
        for path in taken
        for cell, choice in enumerate(path, start=1)
    }
    assert {path_weights.operation_of(name) for name in changed} - {None} == operations

    text = walk.propose(trained)
    assert text.startswith("0 of 2 paths are scored. Next, on the server:")
    listed = text.split("--models=")[1].split(" ")[0]
    asked = json.loads(pathlib.Path(listed).read_text())["paths"]
    store = walk.lead("search/generation_01", num_rounds=0, models=listed, initial_model="")
    rows = [json.loads(line) for line in (store / "rows.jsonl").read_text().splitlines()]
    # one validation case at each site, for each path
    assert sorted((row["model"], row["site"]) for row in rows) == sorted(
        (path, site) for path in asked for site in CASES
    )
    assert {row["grid"] for row in rows} == {"validation"}
    assert walk.propose(trained).startswith("evolution: ")

    state = search_state.read(walk.folder / "search")
    assert state.finished and state.scored == state.budget == 2
    winner = genotype.load(walk.folder / "search" / "operations.json")
    best = max(state.arms["evolution"].scored, key=lambda one: one.score)
    assert winner == SPACE.genotype(best.gene)
    page = (walk.folder / "search" / "search.html").read_text()
    assert "(federated)" in page and winner.name in page


def test_flags_that_do_not_fit_are_refused_at_the_start(walk, tmp_path):
    absent = walk.flags(trained=tmp_path / "none.safetensors", output=tmp_path / "s", **SEARCH)
    assert "none.safetensors, which does not exist" in refused("search_federated", *absent)
    plain = Study.flags(walk, trained=walk.initial, output=tmp_path / "s", **SEARCH)
    assert refused("search_federated", *plain).startswith("--supernet is missing")
    network = tmp_path / "network.safetensors"
    tensor_files.save(network, {"cell01/input0/op/kernel": np.zeros(3, np.float32)}, {})
    other = walk.flags(trained=network, output=tmp_path / "s", **SEARCH)
    assert "give a global model that sites trained" in refused("search_federated", *other)
    distil = walk.flags(
        trained=walk.initial, output=tmp_path / "s", missing_labels="distil", **SEARCH
    )
    assert "missing_labels is 'distil'" in refused("search_federated", *distil)
    assert not (tmp_path / "s").exists()
    error = refused("table1", "--profile=demo", "--supernet", folder=tmp_path)
    assert error.startswith("--supernet is given, but this program works on one network")
