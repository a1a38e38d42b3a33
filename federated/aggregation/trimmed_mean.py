"""The coordinate-wise trimmed mean."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from federated.aggregation.rule import Aggregated, AggregationRule, Slab, parameter
from federated.aggregation.sorted_values import mean_of_sorted, sorted_values


@dataclasses.dataclass(frozen=True)
class TrimmedMean(AggregationRule):
    """The mean without the largest and smallest updates of each value; every site counts once.

    As long as at most `trim` sites are bad, each value lies within the range of the sound sites'
    values. The source drops a share of the sites; this rule drops a fixed number, so that a round
    with few sites drops as many as a round with all. With 2 * trim + 1 updates it is the median.

    Source: Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates (arXiv 1803.01498), Definition 2.
    """

    name: ClassVar[str] = "trimmed_mean"
    gathers_updates: ClassVar[bool] = True
    within_updates: ClassVar[bool] = True

    trim: int = parameter(
        1,
        "number of updates dropped at each end of every value's range, and of bad sites withstood",
        lambda value: value > 0,
        "a whole number above 0",
    )

    @property
    def min_updates(self) -> int:
        return 2 * self.trim + 1

    @property
    def min_updates_reason(self) -> str:
        return (
            f"it drops {self.trim} at each end of every value's range, and at least one has to "
            "remain"
        )

    def aggregate(self, slab: Slab) -> Aggregated:
        values = sorted_values(slab)
        return Aggregated(mean_of_sorted(values[self.trim : len(values) - self.trim]))
