"""Runs a program of the guide: `python stand_in.py -m experiments.x ...`.

Toys replace the programs that need TensorFlow. They take the same flags and communicate with the
same server under the same plan; only their network is a few numbers.
"""

from __future__ import annotations

import json
import pathlib
import runpy
import sys
import types

import numpy as np
from absl import flags

WEIGHTS = {
    "scale": np.array(2.0, np.float32),
    "kernel": np.linspace(-1, 1, 2**19, dtype=np.float32),
}  # 2 MB


def _plan() -> dict:
    from c2fnas import genotype
    from experiments import configuration
    from experiments import flags as experiment_flags

    config = experiment_flags.experiment_config()
    return configuration.plan(
        config,
        genotype.load(config.genotype).with_size(filters=config.filters, classes=3).to_json(),
    )


class ToyTrainer:
    """Halves the weights and adds the site's step."""

    def __init__(self, site: str, plan: dict):
        from experiments.results.report_words import REPORTS
        from federated.tensors.weights import specs_of

        self.site, self.plan, self.num_examples, self.specs = site, plan, 30, specs_of(WEIGHTS)
        self.vocabulary = REPORTS
        self._step = np.float32(0.25 if site == "C1" else 0.5)

    def score(self, weights):
        return {"dice": float(1.0 / (1.0 + abs(float(weights["scale"]) - 0.75)))}

    def train(self, weights, round_number):
        return {
            name: (array * np.float32(0.5) + self._step).astype(np.float32)
            for name, array in weights.items()
        }, {"loss": 1.0}

    def local_models(self):
        return {}

    def evaluate(self, model_name, weights):
        dice = float(self.score(weights)["dice"])
        return [
            {
                "model": model_name,
                "site": self.site,
                "case": 1,
                "grid": "training",
                "dice_pancreas": dice,
                "dice_tumour": None,
                "volume_ml_pancreas": 70.0,
                "volume_ml_tumour": 0.0,
                "truth_ml_pancreas": 70.0,
                "truth_ml_tumour": 0.0,
            }
        ]


def init_model() -> int:
    from experiments import flags as experiment_flags
    from federated.tensors import tensor_files

    experiment_flags.define_experiment()
    flags.DEFINE_string("output", None, "")
    flags.FLAGS(["init_model", *sys.argv[3:]])
    tensor_files.save(flags.FLAGS.output, WEIGHTS, {"plan": json.dumps(_plan())})
    return 0


def prepare() -> int:
    from experiments import flags as experiment_flags

    experiment_flags.define_experiment()
    experiment_flags.define_site()
    flags.DEFINE_string("manifest", None, "")
    flags.FLAGS(["prepare", *sys.argv[3:]])
    experiment_flags.site_folder(make=True)
    return 0


def join() -> int:
    from experiments import flags as experiment_flags
    from federated import connect, run_site

    experiment_flags.define_experiment()
    experiment_flags.define_site()
    flags.DEFINE_string("kit", None, "")
    flags.FLAGS(["join", *sys.argv[3:]])
    folder = pathlib.Path(flags.FLAGS.site_folder) / "federated" / "journal"
    transport = connect(flags.FLAGS.kit, learned=folder.parent)
    summary = run_site(
        ToyTrainer(transport.site, _plan()),
        transport,
        folder,
        pauses=lambda: iter(lambda: 0.2, None),
    )
    return 0 if summary.finished else 1


def _a_toy_device() -> None:
    """Replaces what the doctor asks TensorFlow: nine examinations would import it nine times."""
    gpus = types.ModuleType("c2fnas.gpus")
    gpus.described = lambda: ["a toy"]
    sys.modules["c2fnas.gpus"] = gpus


TOYS = {
    "experiments.init_model": init_model,
    "experiments.prepare": prepare,
    "experiments.join": join,
}


def main() -> None:
    assert sys.argv[1] == "-m", sys.argv
    module = sys.argv[2]
    if module in TOYS:
        sys.exit(TOYS[module]())
    if module == "experiments.doctor":
        _a_toy_device()
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
