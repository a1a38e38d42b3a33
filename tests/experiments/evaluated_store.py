"""The store of a finished evaluation without training: two models at two sites, with known rows."""

import json

import numpy as np

from experiments.results.report_words import REPORTS
from federated import simulation
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from tests.experiments import run_folder

PLAN = {"spacing_mm": [3.0, 3.0, 3.0], "schedule": {"num_rounds": 0}}
WEIGHTS = {"stem/kernel": np.zeros(3, np.float32)}
MODELS = ("FL_global", "C1_baseline")


class Site:
    """Returns known rows instead of scoring a model."""

    plan, vocabulary, specs = PLAN, REPORTS, specs_of(WEIGHTS)

    def __init__(self, name, omits=lambda row: False):
        self._name, self._omits = name, omits
        self.num_examples = {"C1": 2, "C2": 3}[name]

    def evaluate(self, model_name, weights):
        rows = run_folder.rows((model_name,))
        return [row for row in rows if row["site"] == self._name and not self._omits(row)]


def leave(folder, omits=lambda row: False):
    """Writes the store somewhere in the folder, and returns its path.

    Args:
      omits: returns whether C2 leaves out a row.
    """
    tensor_files.save(folder / "initial.safetensors", WEIGHTS, {"plan": json.dumps(PLAN)})
    models = {name: folder / f"{name}.safetensors" for name in MODELS}
    for number, path in enumerate(models.values()):
        tensor_files.save(path, {"stem/kernel": np.full(3, number, np.float32)})
    trainers = {"C1": Site("C1"), "C2": Site("C2", omits)}
    simulation.run(
        trainers, folder / "initial.safetensors", folder / "run", num_rounds=0, models=models
    )
    return folder / "run" / "server"
