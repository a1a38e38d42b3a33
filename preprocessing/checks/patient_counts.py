"""Histograms that several sites can add up, and that show nothing of fewer than three patients.

Bins lie on a fixed scale, which is the same at every site. One rule holds for values that each
patient has once, such as a size or a spacing: the patients of a bin are counted in whole groups of
three, so that 20 of them count as 18. The patients that are left over, up to two in each bin, are
placed in no bin. Nobody can tell in which bins they are, nor whether these are among those given
(unless two are left over in every bin of the scale, which takes twice as many patients as it has
bins).

Voxels of labels are counted too, and there a patient has many. A bin of voxels is withheld if fewer
than three patients have voxels in it, or if it holds fewer than ten voxels: if three patients have
three voxels there, each of them has exactly one. If the withheld bins together hold as little as
that, the smallest given bins are withheld too: otherwise the total minus the given counts would
reveal these patients.

The total is reported. A quantile of the pooled values is therefore known to lie between two bins,
found by placing what is in no bin at the lower or the upper end of the scale. If both are the same
bin, it is the exact bin of the pooled quantile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FEWEST_PATIENTS = 3  # size of a group of patients; nothing is reported of fewer
_FEWEST_VOXELS = 10  # least count of voxels of at least three patients
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
      given: number of a bin -> its count, for the bins that are given.
      total: count of all values, also of those in no given bin.
    """

    given: Mapping[int, int]
    total: int

    @property
    def placed(self) -> int:
        """Count of the values in given bins."""
        return sum(self.given.values())

    @property
    def withheld(self) -> int:
        """Count of the values that are in no given bin."""
        return self.total - self.placed

    def to_json(self) -> dict[str, Any]:
        return {"total": self.total, "bins": {str(n): count for n, count in self.given.items()}}


def whole_groups(patients: int) -> int:
    """Returns the number of patients in whole groups of three: 18 for 18, 19 and 20."""
    return patients - patients % FEWEST_PATIENTS


def of_values(scale: Scale, values: Sequence[float], total: int) -> Counts | None:
    """Returns the counts of one value per patient; None for fewer than three patients.

    Args:
      total: reported as the count of all values; `whole_groups` of it where the number of patients
        with a value is itself a property of patients.
    """
    if len(values) < FEWEST_PATIENTS:
        return None
    numbers, counts = np.unique(scale.numbers(values), return_counts=True)
    groups = {int(n): whole_groups(int(count)) for n, count in zip(numbers, counts, strict=True)}
    return Counts({n: count for n, count in groups.items() if count}, total)


def of_voxels(counts: np.ndarray) -> Counts | None:
    """Returns the counts of voxels that may be reported; None for fewer than three patients.

    Args:
      counts: whole numbers [patients, bins].
    """
    inside, sums = counts > 0, counts.sum(axis=0)

    def few(bins: np.ndarray) -> bool:
        patients = inside[:, bins].any(axis=1).sum()
        return bool(patients < FEWEST_PATIENTS or sums[bins].sum() < _FEWEST_VOXELS)

    if few(np.ones(len(sums), dtype=bool)):
        return None
    patients = inside.sum(axis=0)
    hidden = (patients < FEWEST_PATIENTS) | (sums < _FEWEST_VOXELS)
    while sums[hidden].any() and few(hidden):
        hidden[min(np.flatnonzero(~hidden), key=lambda n: (patients[n], sums[n]))] = True
    return Counts({int(n): int(sums[n]) for n in np.flatnonzero(~hidden)}, int(sums.sum()))


def groups_from_json(value: Any, scale: Scale) -> Counts | None:
    """Returns the counts of patients in a report, or None where it has none.

    Raises:
      ValueError: if they are not counts on this scale, each of whole groups of three.
    """
    counts = _from_json(value, scale, FEWEST_PATIENTS)
    if counts is not None and any(n != whole_groups(n) for n in counts.given.values()):
        raise ValueError(f"its counts {list(counts.given.values())} are not groups of three")
    return counts


def voxels_from_json(value: Any, scale: Scale) -> Counts | None:
    """Returns the counts of voxels in a report, or None where it has none.

    Raises:
      ValueError: if they are not counts on this scale, each of at least ten.
    """
    return _from_json(value, scale, _FEWEST_VOXELS)


def _from_json(value: Any, scale: Scale, least: int) -> Counts | None:
    if value is None:
        return None
    try:
        given = {int(number): count for number, count in value["bins"].items()}
        total = value["total"]
    except (AttributeError, KeyError, TypeError, ValueError):
        given, total = {}, None
    numbers = [*given.values(), total]
    if (
        not all(type(n) is int and least <= n <= _MOST for n in numbers)
        or len(given) < len(value["bins"])  # one bin under two names, e.g. "1" and "01"
        or sum(given.values()) > total
        or not all(0 <= number < scale.bins for number in given)
    ):
        raise ValueError(
            f"it holds counts that are not on the scale of {scale.bins} bins, or below {least}"
        )
    return Counts(given, total)


class Quantile(NamedTuple):
    """The bin in which a quantile of the pooled values lies.

    Attributes:
      likely: the quantile of the given counts, kept within the bounds.
      lowest, highest: bounds, with everything that is in no given bin at one end.
    """

    likely: int
    lowest: int
    highest: int


def quantile(sites: Sequence[Counts], per_mille: int, scale: Scale) -> Quantile:
    """Returns the bin in which a quantile of the pooled values lies, as far as it is known.

    The quantile is the smallest value at or below which at least this share of the values lies. It
    is one of the values, not interpolated between two.

    Args:
      sites: the counts that each site reports; at least one of them has a given bin.
      per_mille: share in thousandths; above 0.
    """
    given = np.zeros(scale.bins, dtype=object)  # exact, whatever the number of voxels
    for site in sites:
        for number, count in site.given.items():
            given[number] += count
    lowest, highest = given.copy(), given.copy()
    lowest[0] += sum(site.withheld for site in sites)
    highest[-1] += sum(site.withheld for site in sites)

    def place(counts: np.ndarray) -> int:
        rank = -(-counts.sum() * per_mille // 1000)
        return int(np.argmax(np.cumsum(counts) >= rank))

    low, high = place(lowest), place(highest)
    return Quantile(min(max(place(given), low), high), low, high)
