"""Whole runs in one process, and the steps to add an aggregation rule."""

import dataclasses
import itertools
from typing import ClassVar

import numpy as np
import pytest

from federated import errors, simulation
from federated.aggregation import rules
from federated.aggregation.fedavgm import FedAvgM
from federated.aggregation.rule import Aggregated, AggregationRule, Slab
from federated.audit import verification
from federated.tensors import tensor_files
from tests.federated import toy


@dataclasses.dataclass(frozen=True)
class Midrange(AggregationRule):
    """Halfway between the smallest and the largest update, value by value."""

    name: ClassVar[str] = "midrange"

    def aggregate(self, slab: Slab) -> Aggregated:
        updates = np.stack([update.astype("f8") for update in slab.updates])
        return Aggregated((updates.min(axis=0) + updates.max(axis=0)) / 2)


@pytest.fixture
def trainers():
    return {site: toy.ToyTrainer(site) for site in ("C1", "C2", "C3")}


def models(folder):
    files = sorted((folder / "server" / "global").iterdir())
    return [tensor_files.load(path)[0] for path in files]


def test_a_run_is_fedavg_by_default_and_gives_the_weights_worked_out_by_hand(
    trainers, initial, tmp_path
):
    del trainers["C3"]  # of 40 training cases the weighted sums are exact
    summary = simulation.run(trainers, initial, tmp_path / "run", num_rounds=3)
    assert (summary.finished, summary.rounds, summary.sites) == (True, 3, ("C1", "C2"))
    for found, expected in zip(
        models(tmp_path / "run"), toy.expected_globals(("C1", "C2"), 3), strict=True
    ):
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array.astype(np.float32))


def test_a_rule_is_one_class_and_a_run_under_it_can_be_audited(
    trainers, initial, tmp_path, monkeypatch
):
    monkeypatch.setattr(rules, "RULES", {**rules.RULES})
    rule = Midrange()
    simulation.run(trainers, initial, tmp_path / "run", num_rounds=3, rule=rule, keep_updates=3)
    found = models(tmp_path / "run")
    for number, (before, after) in enumerate(itertools.pairwise(found), start=1):
        steps = [toy.STEP[site] * number for site in trainers]  # each site halves and adds
        step = (min(steps) + max(steps)) / 2
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array * np.float32(0.5) + np.float32(step))
    assert verification.verify(tmp_path / "run" / "server").recomputed == (1, 2, 3)


def test_a_run_with_a_state_resumes_only_under_the_same_rule(trainers, initial, tmp_path):
    rule = FedAvgM(momentum=0.5)
    settings = {"num_rounds": 3, "rule": rule}
    first = simulation.run(trainers, initial, tmp_path / "run", **settings)
    assert simulation.run(trainers, initial, tmp_path / "run", **settings) == first
    with pytest.raises(errors.DifferentRun, match=r"the store has fedavgm:momentum=0\.5"):
        simulation.run(trainers, initial, tmp_path / "run", num_rounds=3)


def test_what_a_trainer_raises_ends_the_run_and_is_raised(trainers, initial, tmp_path):
    def fail(round_number):
        raise RuntimeError(f"no memory in round {round_number}")

    trainers["C2"] = toy.ToyTrainer("C2", on_train=fail)
    with pytest.raises(RuntimeError, match="no memory in round 1"):
        simulation.run(trainers, initial, tmp_path / "run", num_rounds=3, poll_s=2.0)
    trainers["C2"] = toy.ToyTrainer("C2")
    assert simulation.run(trainers, initial, tmp_path / "run", num_rounds=3).finished


def test_a_rule_whose_name_is_taken_is_refused(trainers, initial, tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Other(Midrange):
        name: ClassVar[str] = "fedavg"

    with pytest.raises(ValueError, match="another aggregation rule is called 'fedavg'"):
        simulation.run(trainers, initial, tmp_path / "run", num_rounds=1, rule=Other())
