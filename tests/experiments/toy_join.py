"""experiments.join around the toy trainer, which needs no network, and which may be told where to
kill itself: `python -m tests.experiments.toy_join --kill=GrpcTransport.push:before:1 <flags>`.

Flags, kit, prepared cases, journal, transport and loop are those of the program.
"""

from __future__ import annotations

from absl import flags

from c2fnas import genotype
from experiments import configuration, join, program
from experiments.models import supernet_site
from federated.errors import FederationError
from runkit.classes import CLASSES
from tests.federated import toy, toy_process

flags.DEFINE_string("kill", "", "Where this process kills itself, as in toy_process.")


class ToySite(toy.ToyTrainer):
    """Built as a `SegmentationTrainer`; lends nothing."""

    def __init__(self, config, store, folder, **settings):
        del folder, settings
        super().__init__(store.site, plan=plan(config))

    def local_models(self):
        return {}

    def evaluate(self, model_name, weights):
        scored = {
            "dice_pancreas": 0.5,
            "volume_ml_pancreas": 70.0,
            "truth_ml_pancreas": 70.0,
            "volume_ml_tumour": 0.0,
            "truth_ml_tumour": 0.0,
        }
        return [row | scored for row in super().evaluate(model_name, weights)]


def plan(config: configuration.ExperimentConfig):
    """Returns the plan of a configuration, as experiments.serve compares it."""
    genes = genotype.load(config.genotype)
    sized = genes.with_size(filters=config.filters, classes=len(CLASSES))
    return configuration.plan(config, sized.to_json())


def main(argv: list[str]) -> int:
    if flags.FLAGS.kill:
        toy_process.arrange_kill(flags.FLAGS.kill)
    supernet_site.trainer_class = lambda config: ToySite
    return join.main(argv)


if __name__ == "__main__":
    program.run(main, required=["kit", "site_folder"], expected=(FederationError,))
