"""Training of a supernet at one site, federated or alone: like that of one network, but for paths.

The path of a step follows from the seed, the round and the number of the step in that round, so all
sites of a federation train the same paths in the same order, a site with fewer steps the first of
them, and nothing but weights travels. A supernet is no model: it takes no part in the evaluation at
the end of a run, and global supernets are compared along one path, that of the genotype it was made
from.
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
        trainer.begin_round(number, (number - 1) * self._steps_per_round)
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

    Where that applies an operation that is not searched, the first one takes its place.
    """
    places = {op: place for place, op in enumerate(space.operations)}
    return tuple(places.get(cell.op, 0) for cell in space.base.cells)


def trainer_class(config: ExperimentConfig) -> type[SegmentationTrainer]:
    """Returns the class that trains the network of a configuration at a site."""
    return SupernetSite if config.supernet else SegmentationTrainer
