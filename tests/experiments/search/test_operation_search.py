"""The fine stage, with a real supernet where its training matters, and made-up scores elsewhere."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from c2fnas.genotype import CellGene, Genotype
from c2fnas.search import evolution
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.operation_space import OperationSpace
from c2fnas.training import Trainer
from experiments.configuration import ExperimentConfig
from experiments.models import builders
from experiments.search import evidence, federated_search, operation_search, scoring, search_state
from experiments.search.supernet_settings import SupernetSettings
from tests.experiments.search.built_once import BuiltOnce, StoppedAt
from tests.experiments.search.test_candidate_training import CONFIG
from tests.experiments.search.test_candidate_training import Store as Cases
from tests.experiments.study import SHALLOW

SPACE = OperationSpace(
    Genotype("tiny", tuple(CellGene((n,), 1, "conv3d") for n in range(4)), filters=2)
)
SETTINGS = EvolutionSettings(population=4, generations=3, parents=2, mutations=2, crossovers=1)


@pytest.fixture
def first():
    return federated_search.first_state(SPACE, SETTINGS, seed=1, about={})


class Scores:
    """Scores by the operations' places; stops like a killed program after a number of scores."""

    def __init__(self, stop_after=None):
        self.labels, self.left = [], stop_after

    def __call__(self, gene, label):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self.labels.append(label)
        return sum(gene) / 8, {"macs": 1.0, "seconds": 2.0, "dice_C1": 0.5}


def test_both_arms_are_scored_in_turn_and_the_label_says_what_is_scored(first, tmp_path):
    score = Scores()
    state = scoring.run(SPACE, first, tmp_path, score)
    assert state.scored == state.budget == 24
    assert {label.split(",")[0].split()[0] for label in score.labels[:2]} == {"evolution", "random"}
    gene = first.arms["evolution"].candidates[0].gene
    ops = " ".join(SPACE.operations[choice] for choice in gene)
    assert score.labels[0] == f"evolution 1/24, {ops}"
    assert search_state.read(tmp_path) == state


@pytest.mark.parametrize("stopped", [0, 1, 7])
def test_a_stopped_search_ends_with_the_same_result(first, tmp_path, stopped):
    whole = scoring.run(SPACE, first, tmp_path / "whole", Scores())
    with pytest.raises(KeyboardInterrupt):
        scoring.run(SPACE, first, tmp_path / "stopped", Scores(stop_after=stopped))
    held = search_state.resumed(tmp_path / "stopped", first)
    assert held.scored >= stopped
    seen = []
    resumed = scoring.run(
        SPACE, held, tmp_path / "stopped", Scores(), after_each=lambda s: seen.append(s.scored)
    )
    assert resumed == whole
    assert seen[-1] == 24


def test_a_path_of_both_arms_is_scored_once(tmp_path):
    space = OperationSpace(dataclasses.replace(SPACE.base, cells=SPACE.base.cells[:2]))  # 9 paths
    first = federated_search.first_state(
        space, dataclasses.replace(SETTINGS, generations=2), seed=1, about={}
    )
    score = Scores()
    state = scoring.run(space, first, tmp_path, score)
    genes = [one.gene for arm in state.arms.values() for one in arm.candidates]
    assert len(score.labels) == len(set(genes)) < len(genes)
    seconds = [one.details["seconds"] for arm in state.arms.values() for one in arm.scored]
    assert seconds.count(0.0) == len(genes) - len(set(genes))


def test_paths_of_the_random_arm_for_the_evidence(first, tmp_path):
    state = scoring.run(SPACE, first, tmp_path, Scores())
    path = operation_search.write_paths(SPACE, state, tmp_path)
    found = evidence.read_paths(path, filters=2)
    assert [SPACE.gene_of(one.genotype) for one in found] == [
        one.gene for one in state.arms["random"].candidates
    ]
    assert [one.score for one in found] == [one.score for one in state.arms["random"].candidates]


class Store:
    site = "C1"

    def case_ids(self, split=None):
        return ("a", "b") if split == "validation" else ()

    def open(self, case_id):
        return type("Case", (), {"image": np.zeros((8, 8, 4))})


def test_the_cost_is_told_before_anything_is_trained(first):
    config = ExperimentConfig(patch_size=(8, 8, 8), batch_size=2, supernet=True)
    settings = SupernetSettings(supernet_steps=70)
    text = operation_search.cost(first, SPACE, config, settings, [Store()], 2)
    assert "81 paths" in text and "training: 70 steps of 2 patches" in text
    assert "scoring: 24 paths in two arms, on 2 validation cases each" in text
    assert "333 GPU-days" in text
    assert evolution.waiting(first.arms["evolution"]) is not None


def test_a_stopped_training_of_the_supernet_ends_with_the_same_weights(tmp_path, monkeypatch):
    (tmp_path / "genotype.json").write_text(json.dumps(SHALLOW))
    config = dataclasses.replace(
        CONFIG, genotype=str(tmp_path / "genotype.json"), supernet=True, seed=3
    )
    space = builders.operation_space(config)
    settings = SupernetSettings(supernet_steps=4, checkpoint_every=2)
    stores, strategy = [Cases("C1"), Cases("C2")], tf.distribute.get_strategy()

    def train(folder):
        return operation_search.train_supernet(config, space, settings, stores, folder, strategy)

    monkeypatch.setattr(builders, "build_trainer", BuiltOnce())
    whole = train(tmp_path / "whole").trainer.state()
    stopping = StoppedAt(Trainer.train, 2)
    monkeypatch.setattr(Trainer, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "again")
    trained = train(tmp_path / "again")
    again = trained.trainer.state()
    assert stopping.stopped == 1 and again.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)

    score, details = operation_search.path_scorer(trained, config, stores, strategy)((2, 0), "")
    assert trained.trainer.supernet.path == (2, 0)
    assert score == pytest.approx((details["dice_C1"] + details["dice_C2"]) / 2)
    assert details["macs"] == space.genotype((2, 0)).macs((8, 8, 8))
    for store in stores:  # of which the fourth case is for tests
        assert store.opened == {f"{store.site}_{number}" for number in (1, 2, 3)}
