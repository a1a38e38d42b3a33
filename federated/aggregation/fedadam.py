"""Adam at the server."""

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
class FedAdam(AggregationRule):
    """Averages as FedAvg does and takes an Adam step towards the mean.

        change         <-  mean of the updates - model
        first moment   <-  beta_1 * first moment + (1 - beta_1) * change
        second moment  <-  beta_2 * second moment + (1 - beta_2) * change ** 2
        model          <-  model + learning_rate * first moment / (sqrt(second moment) + tau)

    Moments are per value of the model. The first moment starts at 0, the second at tau ** 2, and
    neither is bias-corrected: FedAdam in Algorithm 2 of the source.

    Source: Reddi et al. 2021, Adaptive Federated Optimization (arXiv 2003.00295).
    """

    name: ClassVar[str] = "fedadam"
    reads_model: ClassVar[bool] = True

    beta_1: float = share_parameter(0.9, "share of the first moment that stays from round to round")
    beta_2: float = share_parameter(
        0.99, "share of the second moment that stays from round to round"
    )
    tau: float = positive_parameter(
        1e-3, "changes that are small beside it move the model in proportion to their size"
    )
    learning_rate: float = positive_parameter(
        0.01, "how far a value moves in a round where its changes are alike and large beside tau"
    )

    def init(self, specs: Sequence[TensorSpec]) -> Mapping[str, float]:
        del specs
        return {"first_moment": 0.0, "second_moment": self.tau * self.tau}

    def aggregate(self, slab: Slab) -> Aggregated:
        mean = weighted_mean(slab.updates, slab.num_examples)
        change = np.subtract(mean, slab.model, dtype=np.float64)
        first = self.beta_1 * slab.state["first_moment"] + (1.0 - self.beta_1) * change
        second = self.beta_2 * slab.state["second_moment"] + (1.0 - self.beta_2) * change * change
        step = self.learning_rate * first / (np.sqrt(second) + self.tau)
        model = np.add(slab.model, step, dtype=np.float64)
        return Aggregated(model, {"first_moment": first, "second_moment": second})
