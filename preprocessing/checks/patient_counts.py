"""Histograms that several sites can add up, without bins that fewer than three patients fill.

A site reports counts on a fixed scale of bins, which is the same at every site. Bins with fewer
than three patients are withheld, empty or not, so that nobody learns which of the withheld bins are
empty. If fewer than three patients fall into all withheld bins together, the smallest reported bins
are withheld too: otherwise the total minus the reported counts would reveal these patients.

The total is reported. A quantile of the pooled values is therefore known to lie between two bins,
found by placing the withheld counts of each site at the lower or the upper end of its scale. If
both are the same bin, it is the exact bin of the pooled quantile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FEWEST_PATIENTS = 3  # least number of patients whose count is reported
_MOST = 10**15  # largest count of voxels


@dataclasses.dataclass(frozen=True)
class Scale:
    """Bins of equal width; the first and the last one also hold values beyond them.

    Attributes:
      first: lower edge of the first bin.
      width: width of each bin.
      bins: number of bins.
    """

    first: float
    width: float
    bins: int

    def numbers(self, values: Sequence[float]) -> np.ndarray:
        """Returns the number of each value's bin, from 0."""
        found = np.floor((np.asarray(values, dtype=np.float64) - self.first) / self.width)
        return np.clip(found, 0, self.bins - 1).astype(int)

    def low(self, number: int) -> float:
        """Returns the lower edge of a bin."""
        return round(self.first + number * self.width, 9)

    def high(self, number: int) -> float:
        """Returns the upper edge of a bin."""
        return self.low(number + 1)

    def centre(self, number: int) -> float:
        """Returns the centre of a bin."""
        return round(self.first + (number + 0.5) * self.width, 9)


@dataclasses.dataclass(frozen=True)
class Counts:
    """The counts that one site reports.

    Attributes:
      given: number of a bin -> its count, for the bins that are not withheld.
      total: count over all bins.
    """

    given: Mapping[int, int]
    total: int

    @property
    def withheld(self) -> int:
        """Total count of the withheld bins."""
        return self.total - sum(self.given.values())

    def to_json(self) -> dict[str, Any]:
        return {"total": self.total, "bins": {str(n): count for n, count in self.given.items()}}


def of_patients(counts: np.ndarray) -> Counts | None:
    """Returns the counts that may be reported; None for fewer than three patients.

    Args:
      counts: whole numbers [patients, bins].
    """
    hidden = hidden_bins(counts)
    if hidden is None:
        return None
    sums = counts.sum(axis=0)
    return Counts({int(n): int(sums[n]) for n in np.flatnonzero(~hidden)}, int(sums.sum()))


def hidden_bins(counts: np.ndarray) -> np.ndarray | None:
    """Returns for each bin whether it is withheld; None if fewer than three patients have a count.

    Args:
      counts: whole numbers [patients, bins].
    """
    inside = np.asarray(counts) > 0
    if inside.any(axis=1).sum() < FEWEST_PATIENTS:
        return None
    patients = inside.sum(axis=0)
    hidden = patients < FEWEST_PATIENTS
    while 0 < inside[:, hidden].any(axis=1).sum() < FEWEST_PATIENTS:
        hidden[min(np.flatnonzero(~hidden), key=lambda n: patients[n])] = True
    return hidden


def of_values(scale: Scale, values: Sequence[float]) -> Counts | None:
    """Returns the reportable counts of one value per patient; None for fewer than 3 patients."""
    counts = np.zeros((len(values), scale.bins), dtype=int)
    counts[np.arange(len(values)), scale.numbers(values)] = 1
    return of_patients(counts)


def from_json(value: Any, scale: Scale) -> Counts | None:
    """Returns the counts of a report.

    Raises:
      ValueError: if they are not counts on this scale, each of at least three.
    """
    if value is None:
        return None
    try:
        given = {int(number): count for number, count in value["bins"].items()}
        total = value["total"]
    except (AttributeError, KeyError, TypeError, ValueError):
        given, total = {}, None
    numbers = [*given.values(), total]
    if (
        not all(type(n) is int and FEWEST_PATIENTS <= n <= _MOST for n in numbers)
        or len(given) < len(value["bins"])  # one bin under two names, e.g. "1" and "01"
        or sum(given.values()) > total
        or not all(0 <= number < scale.bins for number in given)
    ):
        raise ValueError(
            f"it holds counts that are not on the scale of {scale.bins} bins, or below "
            f"{FEWEST_PATIENTS}"
        )
    return Counts(given, total)


class Quantile(NamedTuple):
    """The bin in which a quantile of the pooled values lies.

    Attributes:
      likely: the quantile of the reported counts, kept within the bounds.
      lowest, highest: bounds, with all withheld counts at one end.
    """

    likely: int
    lowest: int
    highest: int


def quantile(sites: Sequence[Counts], per_mille: int, scale: Scale) -> Quantile:
    """Returns the bin in which a quantile of the pooled values lies, as far as it is known.

    The quantile is the smallest value at or below which at least this share of the values lies. It
    is one of the values, not interpolated between two.

    Args:
      sites: the counts that each site reports; at least one value in total.
      per_mille: share in thousandths; above 0.
    """
    given = np.zeros(scale.bins, dtype=object)  # exact, whatever the number of voxels
    lowest, highest = given.copy(), given.copy()
    for site in sites:
        for number, count in site.given.items():
            given[number] += count
        hidden = [number for number in range(scale.bins) if number not in site.given]
        if hidden and site.withheld:
            lowest[hidden[0]] += site.withheld
            highest[hidden[-1]] += site.withheld

    def place(counts: np.ndarray) -> int:
        rank = -(-counts.sum() * per_mille // 1000)
        return int(np.argmax(np.cumsum(counts) >= rank))

    low, high = place(given + lowest), place(given + highest)
    likely = place(given) if given.any() else (low + high) // 2
    return Quantile(min(max(likely, low), high), low, high)
