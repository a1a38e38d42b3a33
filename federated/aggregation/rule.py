"""The interface of an aggregation rule, which makes the next global model from a round's updates.

A rule is a frozen dataclass whose fields are its parameters. It processes a model slab by slab, a
few tens of thousands of values of every update at a time, so that the server's memory grows with
neither the model nor the number of rounds. CONTRIBUTING.md explains how to add a rule.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from federated.tensors.weights import TensorSpec

_NO_STATE: Mapping[str, np.ndarray] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Slab:
    """The same range of values of every update, of the global model and of the rule's state.

    Attributes:
      updates: the sites' values, sorted by site name, in the model's dtype. Each is read from disk
          when the iteration reaches it; they can be iterated only once.
      num_examples: number of training cases of each site, in the same order.
      model: the values of the global model that the sites trained from, in the model's dtype; empty
          unless the rule sets `reads_model`.
      state: name -> float64 values, for each name that `init` returned: what the rule kept at the
          end of the previous round.
    """

    updates: Iterable[np.ndarray]
    num_examples: Sequence[int]
    model: np.ndarray
    state: Mapping[str, np.ndarray]


class Aggregated(NamedTuple):
    """The next global model's values of a slab, in float64, and the state to keep with it."""

    model: np.ndarray
    state: Mapping[str, np.ndarray] = _NO_STATE


@dataclasses.dataclass(frozen=True)
class AggregationRule(abc.ABC):
    """Base class of the rules; its docstring cites the rule's source.

    A rule is a pure function of the slab: no randomness, no clock, no memory. A restart
    and an audit compute a round again and expect the same bits.

    Raises:
      ValueError: for a parameter of the wrong type or out of range.
    """

    name: ClassVar[str]  # as in --aggregation
    reads_model: ClassVar[bool] = False  # whether `aggregate` needs `Slab.model`
    # Whether `aggregate` holds all updates of a slab at once; the more sites there are, the smaller
    # its slabs then are.
    gathers_updates: ClassVar[bool] = False
    # Whether every value lies between those of the updates. Otherwise it is checked to be finite.
    within_updates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is float and type(value) is int:
                value = float(value)
                object.__setattr__(self, field.name, value)
            fits = type(value) is kind and not (
                isinstance(value, float) and not math.isfinite(value)
            )
            if not fits or not field.metadata["holds"](value):
                raise ValueError(
                    f"aggregation rule {self.name}: {field.name} is {value!r}; "
                    f"expected {field.metadata['expected']}"
                )

    @property
    def min_updates(self) -> int:
        """The least number of updates that the rule can work with."""
        return 1

    @property
    def min_updates_reason(self) -> str:
        """Why it cannot work with fewer than `min_updates`, for an error message."""
        return "a mean needs at least one value"

    def check_updates(self, count: int, *, given: str) -> None:
        """Checks that the rule can work with `count` updates in a round.

        Args:
          given: the origin of the count and what to change, for the message.
        Raises:
          ValueError: with the least number, the reason for it, and `given`.
        """
        if count < self.min_updates:
            raise ValueError(
                f"aggregation is {str(self)!r}, which needs at least {self.min_updates} updates "
                f"in every round: {self.min_updates_reason}; {given}"
            )

    def init(self, specs: Sequence[TensorSpec]) -> Mapping[str, float]:
        """Returns the names of what the rule keeps from round to round, with initial values.

        The server keeps one float64 of each name for every value of the model, in a file beside the
        global model. By default a rule does not keep anything.

        Args:
          specs: the tensors of the model.
        """
        del specs
        return {}

    @abc.abstractmethod
    def aggregate(self, slab: Slab) -> Aggregated:
        """Returns the next global model's values of a slab, and the state to keep with them."""

    def __str__(self) -> str:
        """Returns the rule as --aggregation accepts it, with all its parameters."""
        values = [f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self)]
        return ":".join([self.name, *([",".join(values)] if values else [])])


def parameter(default: Any, meaning: str, holds: Callable[[Any], bool], expected: str) -> Any:
    """Declares a parameter of a rule: a field of its dataclass.

    Args:
      default: also determines the type: float, int or bool.
      meaning: description for --help.
      holds: whether a value of that type is in range.
      expected: type and range in words, e.g. "a number more than 0".
    """
    about = {"meaning": meaning, "holds": holds, "expected": expected}
    return dataclasses.field(default=default, metadata=about)


def share_parameter(default: float, meaning: str) -> Any:
    """Declares a parameter of at least 0 and less than 1."""
    expected = "a number from 0 up to, not including, 1"
    return parameter(default, meaning, lambda value: 0 <= value < 1, expected)


def positive_parameter(default: float, meaning: str) -> Any:
    """Declares a parameter of more than 0."""
    return parameter(default, meaning, lambda value: value > 0, "a number more than 0")
