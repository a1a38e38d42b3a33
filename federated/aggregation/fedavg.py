"""Federated averaging, the default rule."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from federated.aggregation.rule import Aggregated, AggregationRule, Slab
from federated.aggregation.weighted_mean import weighted_mean


@dataclasses.dataclass(frozen=True)
class FedAvg(AggregationRule):
    """The mean of the updates, weighted by the number of training cases.

    Source: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from
    Decentralized Data (arXiv 1602.05629).
    """

    name: ClassVar[str] = "fedavg"
    within_updates: ClassVar[bool] = True

    def aggregate(self, slab: Slab) -> Aggregated:
        return Aggregated(weighted_mean(slab.updates, slab.num_examples))
