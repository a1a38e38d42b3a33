"""Training of a supernet at one site, federated or alone: like one network, but path by path.

The path of a step follows from the seed, the round and the number of the step in that round. All
sites of a federation therefore train the same paths in the same order (a site with fewer steps
trains the first of them), and only weights are exchanged. A supernet is not a model: it takes no
part in the evaluation at the end of a run. Global supernets are compared along one path, that of
the genotype they were made from.
"""

from __future__ import annotations

from typing import Any

from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.supernet_trainer import SupernetTrainer
from experiments.configuration import ExperimentConfig
from experiments.models.site_trainer import SegmentationTrainer, Weights


class SupernetSite(SegmentationTrainer):
    """A `SegmentationTrainer` whose network is a supernet."""

    def _run_round(self) -> None:
        trainer = self._trainer
        assert isinstance(trainer, SupernetTrainer)
        number = self._state["round"]
        trainer.begin_round(number, (number - 1) * self.steps_per_round)
        super()._run_round()

    def validate(self, what: str) -> dict[str, float]:
        """Returns the mean validation Dice along the path of the genotype itself."""
        trainer = self._trainer
        assert isinstance(trainer, SupernetTrainer)
        trainer.supernet.choose(reference_path(trainer.supernet.space))
        return super().validate(what)

    def local_models(self) -> dict[str, Weights]:
        return {}

    def evaluate(self, model_name: str, weights: Weights) -> list[dict[str, Any]]:
        return []


def reference_path(space: OperationSpace) -> tuple[int, ...]:
    """Returns the path of the genotype from which the supernet was made.

    An operation that is not searched is replaced by the first one that is.
    """
    places = {op: place for place, op in enumerate(space.operations)}
    return tuple(places.get(cell.op, 0) for cell in space.base.cells)


def trainer_class(config: ExperimentConfig) -> type[SegmentationTrainer]:
    """Returns the class that trains the network of a configuration at a site."""
    return SupernetSite if config.supernet else SegmentationTrainer
