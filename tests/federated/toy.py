"""A trainer without a network, whose numbers are dyadic fractions.

The result of a federation is therefore known exactly.
"""

from __future__ import annotations

import json

import numpy as np

from federated.security.vocabulary import Vocabulary
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of

PLAN = {
    "genotype": {"name": "toy", "filters": 2},
    "patch": {"size": [4, 4, 4]},
    "schedule": {"num_rounds": 3, "local_epochs": 10},
}
INITIAL = {
    "stem/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "head/bias": np.array([1.0, -1.0], dtype=np.float32),
    "scale": np.array(2.0, np.float32),
}
EXAMPLES = {"C1": 30, "C2": 10, "C3": 5}
VOCABULARY = Vocabulary(
    classes=("pancreas", "tumour"),
    grids=("native", "training"),
    words={
        "dice": (0.0, 1.0),
        "volume": (-1e6, 1e6),
        "truth": (0.0, 1e6),
        "found": (0.0, 1e6),
        "false": (0.0, 1e9),
        "score": (0.0, 1e3),
        "components": (0.0, 1e9),
        "hd95": (0.0, 1e5),
        "nsd": (0.0, 1.0),
        **dict.fromkeys(("error", "ml", "mm"), None),
    },
    counts=frozenset({"found", "false"}),
    parts={"found": "truth_components", "false_components": "components"},
)
STEP = {"C1": 0.25, "C2": -0.5, "C3": 1.0}


def initial(bulk=0):
    """Returns the initial model, with `bulk` more values so that it is sent in several chunks."""
    return {**INITIAL, "bulk": np.arange(bulk, dtype=np.float32) / 64} if bulk else INITIAL


def write_initial(path, *, plan=None, arrays=None):
    tensor_files.save(
        path,
        INITIAL if arrays is None else arrays,
        {"plan": json.dumps(PLAN if plan is None else plan)},
    )
    return path


class ToyTrainer:
    """Halves the weights and adds the site's step times the round.

    Its scores depend on the round number that the weights hold.
    """

    vocabulary = VOCABULARY
    _bulk = 0

    def __init__(self, site, *, plan=None, on_train=lambda round_number: None, bulk=0):
        self.site, self.plan, self.num_examples = site, plan or PLAN, EXAMPLES[site]
        self.calls, self._bulk = [], bulk
        self._on_train = on_train

    @property
    def specs(self):
        return specs_of(initial(self._bulk))

    def score(self, weights):
        self.calls.append("score")
        return {
            "dice": float(1.0 / (1.0 + abs(float(weights["scale"]) - 0.75))),
            "dice_pancreas": 0.5,
        }

    def train(self, weights, round_number):
        self.calls.append(f"train {round_number}")
        self._on_train(round_number)
        step = np.float32(STEP[self.site] * round_number)
        return {
            name: (array * np.float32(0.5) + step).astype(np.float32)
            for name, array in weights.items()
        }, {"loss": 1.0 / round_number}

    def local_models(self):
        return {
            f"{self.site}_baseline": {
                name: array + np.float32(EXAMPLES[self.site])
                for name, array in initial(self._bulk).items()
            }
        }

    def evaluate(self, model_name, weights):
        self.calls.append(f"evaluate {model_name}")
        return [
            {
                "model": model_name,
                "site": self.site,
                "case": case,
                "grid": "training",
                "volume_error_ml_pancreas": float(np.asarray(weights["scale"])) / case,
                "dice_tumour": None,
            }
            for case in (1, 2)
        ]


def expected_globals(sites, num_rounds):
    """Returns the global models of rounds 0, 1, ... by float64 arithmetic, which is exact here."""
    models = [{name: array.astype(np.float64) for name, array in INITIAL.items()}]
    total = sum(EXAMPLES[site] for site in sites)
    for number in range(1, num_rounds + 1):
        models.append(
            {
                name: sum(EXAMPLES[site] * (array * 0.5 + STEP[site] * number) for site in sites)
                / total
                for name, array in models[-1].items()
            }
        )
    return models
