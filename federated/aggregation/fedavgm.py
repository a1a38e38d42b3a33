"""Federated averaging with momentum at the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from federated.aggregation.rule import (
    Aggregated,
    AggregationRule,
    Slab,
    positive_parameter,
    share_parameter,
)
from federated.aggregation.weighted_mean import weighted_mean
from federated.tensors.weights import TensorSpec


@dataclasses.dataclass(frozen=True)
class FedAvgM(AggregationRule):
    """Averages as FedAvg does and moves the model with momentum towards the mean.

        velocity  <-  momentum * velocity + (model - mean of the updates)
        model     <-  model - learning_rate * velocity

    With momentum 0 and learning rate 1 it is FedAvg, up to the rounding of float64.

    Source: Hsu, Qi, Brown 2019, Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification (arXiv 1909.06335). The learning rate is that of Reddi et al.
    2021, Adaptive Federated Optimization (arXiv 2003.00295).
    """

    name: ClassVar[str] = "fedavgm"
    reads_model: ClassVar[bool] = True

    momentum: float = share_parameter(0.9, "share of the velocity that stays from round to round")
    learning_rate: float = positive_parameter(1.0, "length of a step along the velocity")

    def init(self, specs: Sequence[TensorSpec]) -> Mapping[str, float]:
        del specs
        return {"velocity": 0.0}

    def aggregate(self, slab: Slab) -> Aggregated:
        mean = weighted_mean(slab.updates, slab.num_examples)
        velocity = self.momentum * slab.state["velocity"]
        velocity += np.subtract(slab.model, mean, dtype=np.float64)
        model = np.subtract(slab.model, self.learning_rate * velocity, dtype=np.float64)
        return Aggregated(model, {"velocity": velocity})
