"""The coordinate-wise median."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from federated.aggregation.rule import Aggregated, AggregationRule, Slab
from federated.aggregation.sorted_values import mean_of_sorted, sorted_values


@dataclasses.dataclass(frozen=True)
class Median(AggregationRule):
    """The median of the updates, value by value; every site counts once, whatever its cases.

    Of an even number of updates it is the mean of the two in the middle. As long as more than half
    of the sites are sound, each value lies within the range of the sound sites' values.

    Source: Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates (arXiv 1803.01498), Definition 1.
    """

    name: ClassVar[str] = "median"
    gathers_updates: ClassVar[bool] = True
    within_updates: ClassVar[bool] = True

    @property
    def min_updates(self) -> int:
        return 3

    @property
    def min_updates_reason(self) -> str:
        return "the median of two values is their mean, which one bad site moves as it likes"

    def aggregate(self, slab: Slab) -> Aggregated:
        values = sorted_values(slab)
        count = len(values)
        return Aggregated(mean_of_sorted(values[(count - 1) // 2 : count // 2 + 1]))
