"""The programs of a federated search, with a group whose programs only leave what the real ones do."""

import json
import pathlib

import pytest

from c2fnas.genotype import Genotype
from c2fnas.search.operation_space import OperationSpace
from experiments.configuration import ExperimentConfig
from experiments.results import path_names
from experiments.search import federated_search, federated_stage, search_state
from experiments.search.federated_stage import FederatedStage
from runkit import atomic, events
from tests.experiments.search import test_federated_search
from tests.experiments.study import GENOTYPE

SPACE = OperationSpace(Genotype.from_json(GENOTYPE))
SEARCH = {"population": 3, "generations": 3, "parents": 2, "mutations": 2, "crossovers": 1}


class Stopped(Exception):
    """The whole search was stopped."""


class Group:
    """Programs that do at once what the real ones do, until the one with a number is stopped."""

    def __init__(self, stop_at=None):
        self.started, self.flags, self._stop_at = [], [], stop_at

    def start(self, name, module, arguments, *, log=None):
        if len(self.started) == self._stop_at:
            raise Stopped
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        self.started.append(name)
        self.flags.append((module.removeprefix("experiments."), given))
        act = getattr(self, module.removeprefix("experiments."), None)
        if act is not None:
            act({key: pathlib.Path(value) for key, value in given.items()})

    def wait(self, programs, what):
        pass

    def wait_for(self, ready, program, what, timeout_s):
        assert ready()

    def provision(self, given):
        given["output"].mkdir()

    def init_model(self, given):
        given["output"].write_bytes(b"weights")

    def serve(self, given):
        given["store"].mkdir(parents=True, exist_ok=True)
        atomic.write_json(given["store"] / "address.json", {"port": 1})
        if "models" not in given:
            events.EventLog(given["store"] / "events.jsonl").append("finished", rounds=1)
            return
        genes = [
            path_names.gene_of(name) for name in json.loads(given["models"].read_text())["paths"]
        ]
        test_federated_search.answer(given["store"], genes, test_federated_search.score)

    def search_federated(self, given):
        folder = given["output"]
        state = search_state.resumed(folder, test_federated_search.first())
        state = federated_search.take_rows(SPACE, state, folder, test_federated_search.PATCH)
        search_state.write(folder, state)
        if federated_search.next_list(state, folder, given["trained"]) is None:
            assert list(federated_search.write_winner(SPACE, state, folder))


def stage(tmp_path):
    config = federated_stage.supernet_config(
        ExperimentConfig(vae="none"), tmp_path / "topology.json", training_cases=12, steps=3000
    )
    return FederatedStage(
        folder=tmp_path / "federated",
        config=config,
        site_folders={site: tmp_path / site for site in ("C1", "C2")},
        evolution=SEARCH,
        pooled=tmp_path / "operations",
        threads=5,
    )


def test_sites_train_and_then_score_every_generation(tmp_path):
    group, sites = Group(), ["server", "C1", "C2"]
    stage(tmp_path).run(group)
    once = [*sites, "search_federated"]
    assert group.started == ["provision", "init_model", *sites, "search_federated", *3 * once]
    served = [given for module, given in group.flags if module == "serve"]
    assert served[0]["initial_model"].endswith("federated/initial.safetensors")
    assert [pathlib.Path(given["store"]).name for given in served] == [
        "supernet",
        *(f"generation_0{number}" for number in (1, 2, 3)),
    ]
    assert [given.get("num_rounds") for given in served] == [None, "0", "0", "0"]
    joined = [given for module, given in group.flags if module == "join"]
    assert {given["threads"] for given in joined} == {"2"}
    assert {(given["site_folder"], given["server"]) for given in joined} == {
        (str(tmp_path / site), "localhost:1") for site in ("C1", "C2")
    }
    asked = [given for module, given in group.flags if module == "search_federated"]
    assert asked[0]["population"] == "3" and asked[0]["pooled"] == str(tmp_path / "operations")
    state = search_state.read(tmp_path / "federated" / "search")
    assert state.finished and state.scored == 18
    stage(tmp_path).run(again := Group())
    assert again.started == []


@pytest.mark.parametrize("stop", range(18))
def test_a_stage_that_is_stopped_resumes_and_repeats_nothing(tmp_path, stop):
    with pytest.raises(Stopped):
        stage(tmp_path).run(first := Group(stop_at=stop))
    stage(tmp_path).run(second := Group())
    stores = [
        given["store"] for module, given in (*first.flags, *second.flags) if module == "serve"
    ]
    assert len(stores) == len(set(stores)) == 4
    assert search_state.read(tmp_path / "federated" / "search").scored == 18


def test_each_site_takes_as_many_steps_as_pooled_training():
    config = ExperimentConfig(vae="none", batch_size=2, patches_per_case=1)
    found = federated_stage.supernet_config(
        config, pathlib.Path("t.json"), training_cases=12, steps=3000
    )
    # six steps per epoch, ten epochs per round
    assert (found.local_epochs, found.num_rounds, found.validation_every) == (10, 50, 50)
    assert found.supernet and found.genotype == "t.json"
    odd = federated_stage.supernet_config(
        config, pathlib.Path("t.json"), training_cases=13, steps=3001
    )
    assert odd.num_rounds == 43  # of 70 steps
