"""The store of a finished evaluation without training: two models at two sites, whose rows are
known.
"""

import json

import numpy as np

from experiments.results.vocabulary import REPORTS
from federated import simulation
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from tests.experiments import run_folder

PLAN = {"spacing_mm": [3.0, 3.0, 3.0], "schedule": {"num_rounds": 0}}
WEIGHTS = {"stem/kernel": np.zeros(3, np.float32)}
MODELS = ("FL_global", "C1_baseline")


class Site:
    """Returns rows that are known in place of scoring a model."""

    plan, num_examples, vocabulary, specs = PLAN, 3, REPORTS, specs_of(WEIGHTS)

    def __init__(self, name):
        self._name = name

    def evaluate(self, model_name, weights):
        return [row for row in run_folder.rows((model_name,)) if row["site"] == self._name]


def leave(folder):
    """Writes the store somewhere in the folder, and returns its path."""
    tensor_files.save(folder / "initial.safetensors", WEIGHTS, {"plan": json.dumps(PLAN)})
    models = {name: folder / f"{name}.safetensors" for name in MODELS}
    for number, path in enumerate(models.values()):
        tensor_files.save(path, {"stem/kernel": np.full(3, number, np.float32)})
    trainers = {name: Site(name) for name in ("C1", "C2")}
    simulation.run(
        trainers, folder / "initial.safetensors", folder / "run", num_rounds=0, models=models
    )
    return folder / "run" / "server"
