"""Fixed-point numbers in the ring of integers modulo 2**64, in which masked updates are added.

A site sends n * (x - g) for each value: n is its number of training cases, x the value after local
training, g the value of the global model that it trained from. In units of 2**-FRACTION_BITS and
rounded to an integer, such values add up exactly in any order, and a mask can be added and removed
without an error.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from federated import errors
from federated.tensors.weights import TensorSpec
from federated.wire.messages import MAX_SUMMANDS, SumSettings

WORD = np.dtype("<u8")
_WORD_BITS = 64
FRACTION_BITS = 32


@dataclasses.dataclass(frozen=True)
class Ring:
    """The fixed-point format of one run.

    The error of the mean of k sites with N training cases in all is at most
    k * 2**-(FRACTION_BITS + 1) / N + 16 * 2**-53 * largest, where `largest` is the largest absolute
    value of the global model and the updates: each site computes each value in float64 and rounds
    it once, by at most half a unit. The sum itself is exact.

    Attributes:
      value_range: largest absolute change of a value by local training that a site can send.
      max_sites: number of sites that may be added.
    Raises:
      ValueError: if not even one training case per site fits.
    """

    value_range: float
    max_sites: int

    def __post_init__(self) -> None:
        if self.max_examples < 1:
            raise ValueError(
                f"a change of {self.value_range:g} by each of {self.max_sites} sites does not fit "
                f"in {_WORD_BITS} bits of which {FRACTION_BITS} are the fraction; lower "
                "--secure_aggregation_range or --max_num_clients"
            )

    @classmethod
    def of(cls, settings: SumSettings) -> Ring:
        return cls(settings.value_range, settings.max_sites)

    @property
    def max_examples(self) -> int:
        """The most training cases that a site may have without a risk that a sum wraps around."""
        # Half of the ring is for negative sums. A product in float64 may be too large by a relative
        # 2**-53, and is then rounded: less than 2**10 units per site.
        room = 2 ** (_WORD_BITS - 1) - 1 - self.max_sites * 2**10
        numerator, denominator = (self.value_range * 2.0**FRACTION_BITS).as_integer_ratio()
        return room * denominator // (numerator * self.max_sites)

    def check_examples(self, site: str, num_examples: int) -> None:
        """Raises UpdateRefused if a site has so many cases that a sum might wrap around."""
        if num_examples > self.max_examples:
            raise errors.UpdateRefused(
                f"site {site!r} has {num_examples} training cases; with secure aggregation at most "
                f"{self.max_examples} fit beside a change of {self.value_range:g} by each of "
                f"{self.max_sites} sites; lower the server's --secure_aggregation_range or "
                "--max_num_clients"
            )

    def check(self, values: np.ndarray, model: np.ndarray, *, what: str) -> None:
        """Raises UpdateRefused if a value changed by more than `value_range`, or is not finite.

        Args:
          what: name of the update, for the message.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            change = np.abs(np.subtract(values, model, dtype=np.float64))
        if not (change <= self.value_range).all():
            finite = np.isfinite(change)
            largest = f"{change[finite].max(initial=0.0):.4g}" if finite.all() else "not finite"
            raise errors.UpdateRefused(
                f"{what}: its largest change of a value is {largest}; with secure aggregation "
                f"values may change by {self.value_range:g} at most; lower the learning rate, or "
                "have the server started with a larger --secure_aggregation_range"
            )

    def words(
        self, values: np.ndarray, model: np.ndarray, num_examples: int, *, what: str
    ) -> np.ndarray:
        """Returns what a site adds to the sum, before its masks.

        Args:
          values, model: float [n], after local training and before.
          what: as in `check`.
        Returns:
          uint64 [n].
        Raises:
          UpdateRefused: as in `check` and `check_examples`; nothing ever wraps around.
        """
        self.check(values, model, what=what)
        self.check_examples(what, num_examples)
        scaled = np.subtract(values, model, dtype=np.float64)
        scaled *= float(num_examples) * 2.0**FRACTION_BITS
        return np.rint(scaled, out=scaled).astype(np.int64).view(WORD)

    def mean(self, total: np.ndarray, model: np.ndarray, num_examples: int) -> np.ndarray:
        """Returns the weighted mean of the updates, float64 [n].

        Args:
          total: uint64 [n], the sum of `words` modulo 2**64.
          model: the values that the sites trained from.
          num_examples: training cases of all sites in the sum.
        """
        change = total.view(np.int64) / (num_examples * 2.0**FRACTION_BITS)
        return np.add(change, model, out=change)


def masked_specs(num_values: int) -> tuple[TensorSpec, ...]:
    """Returns the one tensor of a masked update: one word per value, in canonical order."""
    return (TensorSpec("masked_update", "U64", (num_values,)),)


def check_settings(settings: SumSettings) -> None:
    """Checks the settings of secure aggregation that a server states.

    Raises:
      ValueError: naming the faulty setting: fewer than three sites, a threshold that is not a
        majority, a fixed-point format that this release does not use, or an impossible range.
    """
    if not 3 <= settings.max_sites <= MAX_SUMMANDS:
        raise ValueError(
            f"secure aggregation is for 3 to {MAX_SUMMANDS} sites, not for {settings.max_sites}: "
            "of two sites, each can subtract its own update from the sum"
        )
    if not settings.max_sites < 2 * settings.threshold <= 2 * settings.max_sites:
        raise ValueError(
            f"the threshold of secure aggregation is {settings.threshold}; of "
            f"{settings.max_sites} sites it must be more than half and at most all"
        )
    if settings.fraction_bits != FRACTION_BITS:
        raise ValueError(
            f"secure aggregation counts in units of 2**-{settings.fraction_bits}, this release in "
            f"2**-{FRACTION_BITS}; install the same release at both ends"
        )
    if not 2.0**-20 <= settings.value_range <= 2.0**24:
        raise ValueError(
            f"the range of secure aggregation is {settings.value_range:g}; "
            "expected 1e-6 to 1.6e7, a little more than the largest change of a value in a round"
        )
    Ring.of(settings)
