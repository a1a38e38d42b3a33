"""One bad site among five: which aggregation rules keep the result of the others within a bound.

Each site fits a few weights to its own optimum by gradient descent; the sound sites' optima are
close together. The result is kept if every weight of the last global model lies in the range of the
sound sites' optima, extended at both ends by its own width.
"""

from __future__ import annotations

import numpy as np
import pytest

from federated import simulation
from federated.aggregation import rules
from federated.aggregation.rule import Slab
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from tests.federated import toy

ROUNDS = 30
INITIAL = np.zeros(6, np.float32)
COMMON = np.float32([0.5, -1.0, 0.75, 1.5, -1.25, 1.0])
OPTIMA = COMMON + np.random.default_rng(8).uniform(-0.1, 0.1, size=(5, 6)).astype("f4")
LOW, HIGH = OPTIMA[1:].min(axis=0), OPTIMA[1:].max(axis=0)

# What site 0 sends in place of its update.
FAULTS = {
    "none": lambda model, update: update,
    "sign-flipped": lambda model, update: model - (update - model),
    "scaled by 100": lambda model, update: model + np.float32(100) * (update - model),
    "stuck": lambda model, update: INITIAL,
}
EQUAL, MOST = (20, 20, 20, 20, 20), (180, 20, 20, 20, 20)  # training cases of each site

# Rule to fault to whether the result is kept: where all sites have equally many training cases, and
# where the bad site has most of them.
KEPT = {
    "fedavg": {
        "none": (True, True),
        "sign-flipped": (True, False),  # four fifths outvote one fifth; a minority does not
        "scaled by 100": (False, False),
        "stuck": (False, False),  # the mean is a fifth of the way back to the initial model
    },
    "fedavgm:momentum=0.5": {
        "none": (True, True),
        "sign-flipped": (True, False),
        "scaled by 100": (False, False),
        "stuck": (False, False),
    },
    "fedadam:beta_1=0.5,learning_rate=0.1": {
        "none": (True, True),
        "sign-flipped": (True, False),
        # Its steps have a length of their own, and the optimum of this bad site is a good one.
        "scaled by 100": (True, True),
        "stuck": (False, False),
    },
    "median": dict.fromkeys(FAULTS, (True, True)),
    "trimmed_mean:trim=1": dict.fromkeys(FAULTS, (True, True)),
}


def trained(site, model):
    """Halves the distance to the site's optimum."""
    return model + np.float32(0.5) * (OPTIMA[site] - model)


def last_model(rule, fault, examples, *, num_rounds=ROUNDS):
    """Returns the global model after some rounds under a rule, or once it has diverged."""
    model = INITIAL
    state = {name: np.full(model.size, value) for name, value in rule.init(()).items()}
    for _ in range(num_rounds):
        updates = [trained(site, model) for site in range(5)]
        updates[0] = FAULTS[fault](model, updates[0])
        result = rule.aggregate(Slab(iter(updates), examples, model, state))
        model, state = result.model.astype(np.float32), result.state
        if np.abs(model).max() > 1e6:
            break
    return model


def is_kept(model):
    width = HIGH - LOW
    return bool(((model >= LOW - width) & (model <= HIGH + width)).all())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("text", KEPT)
def test_which_rules_keep_the_result_of_the_sound_sites(text, fault):
    rule = rules.parse(text)
    models = [last_model(rule, fault, examples) for examples in (EQUAL, MOST)]
    assert tuple(map(is_kept, models)) == KEPT[text][fault]


def test_two_bad_sites_of_five_need_the_median_or_two_trimmed_at_each_end():
    both = {0: np.float32(50.0), 1: np.float32(60.0)}  # they agree roughly, and are far away
    found = {}
    for text in ("median", "trimmed_mean:trim=1", "trimmed_mean:trim=2"):
        rule, model = rules.parse(text), INITIAL
        for _ in range(ROUNDS):
            updates = [
                np.full_like(model, both[site]) if site in both else trained(site, model)
                for site in range(5)
            ]
            model = rule.aggregate(Slab(iter(updates), EQUAL, model, {})).model.astype("f4")
        found[text] = is_kept(model)
    assert found == {"median": True, "trimmed_mean:trim=1": False, "trimmed_mean:trim=2": True}


class Trainer:
    """A site of a whole run, whose behaviour `trained` and `FAULTS` define."""

    plan, vocabulary, num_examples = toy.PLAN, toy.VOCABULARY, 20
    specs = specs_of({"w": INITIAL})

    def __init__(self, number, fault):
        self._number, self._fault = number, fault

    def score(self, weights):
        return {"dice": 0.5}

    def train(self, weights, round_number):
        model = weights["w"].copy()
        update = trained(self._number, model)
        return {"w": FAULTS[self._fault](model, update)}, {"loss": 1.0}

    def local_models(self):
        return {}

    def evaluate(self, model_name, weights):
        return []


@pytest.mark.parametrize("text", ["fedavg", "median"])
def test_a_whole_run_with_a_bad_site_gives_the_same_model(tmp_path, text):
    trainers = {f"S{n}": Trainer(n, "none" if n else "sign-flipped") for n in range(5)}
    initial = toy.write_initial(tmp_path / "initial.safetensors", arrays={"w": INITIAL})
    rule = rules.parse(text)
    settings = {"num_rounds": 4, "max_change_ratio": 0}  # every change is accepted
    simulation.run(trainers, initial, tmp_path / "run", rule=rule, **settings)
    path = tmp_path / "run" / "server" / "global" / "round_004.safetensors"
    expected = last_model(rule, "sign-flipped", EQUAL, num_rounds=4)
    np.testing.assert_array_equal(tensor_files.load(path)[0]["w"], expected)
