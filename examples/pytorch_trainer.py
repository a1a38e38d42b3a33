"""A site's trainer for a PyTorch network. docs/bring-your-own-trainer.md explains it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from federated.security.vocabulary import Vocabulary
from federated.tensors.weights import NamedArrays, specs_of

Cases = tuple[torch.Tensor, torch.Tensor]  # scans and labels, float32 [cases, 1, x, y, z]

LEARNING_RATE, BATCH_SIZE = 0.5, 2
PLAN = {
    "network": "two convolutions",
    "learning_rate": LEARNING_RATE,
    "batch_size": BATCH_SIZE,
}
VOCABULARY = Vocabulary(classes=("ball",), grids=("training",), words={"dice": (0.0, 1.0)})


def to_arrays(network: nn.Module) -> NamedArrays:
    """Returns copies of the network's floating-point tensors; its counters stay at the site."""
    state = network.state_dict()
    return {name: t.numpy(force=True).copy() for name, t in state.items() if t.is_floating_point()}


def from_arrays(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets the network's floating-point tensors; its counters keep their values."""
    given = {name: torch.tensor(array) for name, array in arrays.items()}
    network.load_state_dict({**network.state_dict(), **given})


@torch.no_grad()
def dice_per_case(network: nn.Module, cases: Cases) -> list[float]:
    """Returns the Dice of each case, from 0 to 1."""
    scans, labels = cases
    found, truth = network.eval()(scans) > 0, labels > 0
    axes = (1, 2, 3, 4)
    return (2 * (found & truth).sum(axes) / (found.sum(axes) + truth.sum(axes))).tolist()


class PyTorchTrainer:
    """Trains a network on the cases of one site; follows `federated.SiteTrainer`."""

    plan, vocabulary = PLAN, VOCABULARY

    def __init__(self, site: str, network: nn.Module, training: Cases, validation: Cases):
        self.site, self.network = site, network
        self.training, self.validation = training, validation
        self.num_examples, self.specs = len(training[0]), specs_of(to_arrays(network))

    def train(self, weights: NamedArrays, round_number: int) -> tuple[NamedArrays, dict]:
        from_arrays(self.network.train(), weights)
        order = torch.Generator().manual_seed(round_number)  # the same order after a restart
        optimiser = torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE)
        scans, labels = self.training
        for batch in torch.randperm(len(scans), generator=order).split(BATCH_SIZE):
            logits = self.network(scans[batch])
            loss = functional.binary_cross_entropy_with_logits(logits, labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return to_arrays(self.network), {"loss": loss.item()}

    def score(self, weights: NamedArrays) -> dict[str, float]:
        from_arrays(self.network, weights)
        return {"dice": statistics.fmean(dice_per_case(self.network, self.validation))}

    def evaluate(self, model_name: str, weights: NamedArrays) -> list[dict[str, Any]]:
        from_arrays(self.network, weights)
        row = {"model": model_name, "site": self.site, "grid": "training"}
        dices = dice_per_case(self.network, self.validation)
        return [{**row, "case": n, "dice_ball": dice} for n, dice in enumerate(dices, start=1)]

    def local_models(self) -> dict[str, NamedArrays]:
        return {}  # this site lends no model of its own to the evaluation
