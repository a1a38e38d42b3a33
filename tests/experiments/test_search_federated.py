"""A supernet that two sites train together over TLS, and the search of its paths by rows."""

import json
import pathlib

import pytest

from c2fnas import genotype
from c2fnas.search import path_weights
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.paths import path_at
from experiments.search import search_state
from federated.tensors import tensor_files
from tests import forked
from tests.experiments.programs import refused
from tests.experiments.study import CASES, SHALLOW, Study

SEARCH = {"population": 1, "generations": 2, "parents": 1, "mutations": 1, "crossovers": 0}
SPACE = OperationSpace(genotype.Genotype.from_json(SHALLOW))


class Walk(Study):
    """Programs of a federated search; every one of them knows that it is about a supernet."""

    def flags(self, **changes):
        return super().flags(supernet="true", vae="none", local_epochs=1, **changes)

    def lead(self, name, **changes):
        """Runs a server and both sites to their end."""
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
    with found.group() as group:
        found.make_scans()
        programs = [
            group.start(
                f"prepare {site}",
                "experiments.prepare",
                Study.flags(
                    found,
                    manifest=found.folder / "scans" / site / "manifest.json",
                    site_folder=found.site_folder(site),
                    split=split,
                ),
            )
            for site, split in (("C1", "3,1,1"), ("C2", "4,1,1"))
        ]
        kits = [f"--output={found.kits}", "--port=0"]
        programs.append(group.start("kits", "experiments.provision", kits))
        initial = found.flags(output=found.initial, threads=1)
        programs.append(group.start("init", "experiments.init_model", initial))
        group.wait(programs, "preparation")
    return found


def test_sites_train_a_supernet_and_its_paths_are_picked_by_rows_alone(walk):
    store = walk.lead("supernet")
    trained = store / "global" / "round_002.safetensors"
    weights, _ = tensor_files.load(trained)
    start, _ = tensor_files.load(walk.initial)
    changed = {name for name in weights if (weights[name] != start[name]).any()}
    assert any("/op/" not in name for name in changed)
    # two rounds of two steps: both sites took the same paths, and nothing beside them was trained
    taken = [path_at(SPACE, 5, number, step) for number in (1, 2) for step in (0, 1)]
    operations = {
        (cell, SPACE.operations[choice])
        for path in taken
        for cell, choice in enumerate(path, start=1)
    }
    assert {path_weights.operation_of(name) for name in changed} - {None} == operations

    text = walk.propose(trained)
    assert text.startswith("0 of 4 paths are scored. Next, on the server:")
    for generation in ("generation_01", "generation_02"):
        listed = text.split("--models=")[1].split(" ")[0]
        asked = json.loads(pathlib.Path(listed).read_text())["paths"]
        store = walk.lead(f"search/{generation}", num_rounds=0, models=listed, initial_model="")
        rows = [json.loads(line) for line in (store / "rows.jsonl").read_text().splitlines()]
        # one validation case at each site, for each path
        assert sorted((row["model"], row["site"]) for row in rows) == sorted(
            (path, site) for path in asked for site in CASES
        )
        assert {row["grid"] for row in rows} == {"validation"}
        text = walk.propose(trained)
    assert text.startswith("evolution: ")

    state = search_state.read(walk.folder / "search")
    assert state.next_candidate() is None and state.scored == state.budget == 4
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
    distil = walk.flags(
        trained=walk.initial, output=tmp_path / "s", missing_labels="distil", **SEARCH
    )
    assert "missing_labels is 'distil'" in refused("search_federated", *distil)
    assert not (tmp_path / "s").exists()
    error = refused("table1", "--profile=demo", "--supernet", folder=tmp_path)
    assert error.startswith("--supernet is given, and this program works on one network")
