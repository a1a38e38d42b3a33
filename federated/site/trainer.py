"""What a site brings to a run: its training and its evaluation, as the loop calls them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from federated.rounds import plan
from federated.security.vocabulary import Vocabulary
from federated.tensors.weights import NamedArrays, TensorSpec


class SiteTrainer(Protocol):
    """What the loop calls to train and evaluate.

    Optional attributes:
      labels: class -> what the site's labels show of it, a word of `declarations.WORDS`. Without
        it, or with None, the site declares nothing.
      score_every: a global model is scored if its number is a multiple of this; the last one always
        is. 1 by default.
      steps_per_round: training steps of a round, by which privacy filters divide a change that they
        bound per step. 1 by default.
    """

    @property
    def plan(self) -> dict[str, Any]:
        """Everything that must be the same at every site, as a nested dict that JSON can hold.

        The server compares it entry by entry.
        """

    @property
    def num_examples(self) -> int:
        """The number of training cases, which is the weight of the site's updates."""

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """Names, shapes and dtypes of the model's tensors, as `weights.specs_of` returns them.

        A model that the server describes must have them before anything is written to disk.
        """

    @property
    def vocabulary(self) -> Vocabulary:
        """What the rows and scores may hold; anything else stays at the site."""

    def score(self, weights: NamedArrays) -> Mapping[str, float]:
        """Scores a received global model on the site's own validation cases.

        The score under `model_selection.SCORE` is the one by which global models are compared.
        """

    def train(
        self, weights: NamedArrays, round_number: int
    ) -> tuple[NamedArrays, Mapping[str, float]]:
        """Trains the local epochs of a round from `weights`; returns (weights, metrics).

        After a kill it is called again with the same arguments, even if it had returned. It then
        resumes, or trains the round again.
        """

    def local_models(self) -> Mapping[str, NamedArrays]:
        """Returns the models that this site lends to the evaluation at all sites, by name.

        For example {"C1_baseline": ..., "C1_FL_local": ...}.
        """

    def evaluate(self, model_name: str, weights: NamedArrays) -> list[dict[str, Any]]:
        """Returns one row per test case of this site; see `report_filter.checked_rows`."""


def check_trainer(trainer: SiteTrainer) -> None:
    """Raises ValueError for a number of cases or a plan that cannot be sent."""
    number = trainer.num_examples
    if type(number) is not int:  # JSON, protobuf and the engines do not all take others
        raise ValueError(
            f"the trainer's num_examples is {number!r}, of type {type(number).__name__}; expected "
            "a Python int, e.g. len(cases)"
        )
    plan.normal(trainer.plan)


def trained(
    trainer: SiteTrainer, weights: NamedArrays, round_number: int
) -> tuple[NamedArrays, Mapping[str, float]]:
    """Calls `train`. Raises ValueError if it does not return arrays and numbers by name."""
    result = trainer.train(weights, round_number)
    if not (
        isinstance(result, tuple | list)
        and len(result) == 2
        and _are_arrays(result[0])
        and isinstance(result[1], Mapping)
    ):
        raise _unexpected(
            "train", result, "(weights, metrics): a dict of NumPy arrays and a dict of numbers"
        )
    return result[0], result[1]


def scored(trainer: SiteTrainer, weights: NamedArrays) -> Mapping[str, float]:
    """Calls `score`. Raises ValueError if it does not return scores by name."""
    result = trainer.score(weights)
    if not isinstance(result, Mapping):
        raise _unexpected("score", result, 'a dict of numbers by name, e.g. {"accuracy": 0.8}')
    return result


def evaluated(
    trainer: SiteTrainer, model_name: str, weights: NamedArrays
) -> Sequence[Mapping[str, Any]]:
    """Calls `evaluate`. Raises ValueError if it does not return rows."""
    result = trainer.evaluate(model_name, weights)
    rows = list(result) if isinstance(result, Iterable) else [None]
    if not all(isinstance(row, Mapping) for row in rows):
        raise _unexpected("evaluate", result, "a list of rows, each a dict; without rows, []")
    return rows


def lent(trainer: SiteTrainer) -> Mapping[str, NamedArrays]:
    """Calls `local_models`. Raises ValueError if it does not return models by name."""
    result = trainer.local_models()
    if not (isinstance(result, Mapping) and all(map(_are_arrays, result.values()))):
        raise _unexpected(
            "local_models", result, "a dict: name -> dict of NumPy arrays; without models, {}"
        )
    return result


def _are_arrays(weights: object) -> bool:
    return isinstance(weights, Mapping) and all(
        isinstance(array, np.ndarray | np.generic) for array in weights.values()
    )


def _unexpected(method: str, result: object, expected: str) -> ValueError:
    return ValueError(f"the trainer's {method} returned {_kind(result)}; expected {expected}")


def _kind(result: object) -> str:
    """Names the types of a result, never its values, which may be a patient's."""
    name = type(result).__name__
    inner: Iterable[object] = ()
    if isinstance(result, Mapping):
        inner = result.values()
    elif isinstance(result, list | tuple):
        inner = result
    kinds = list(dict.fromkeys(_kind(value) for value in itertools.islice(inner, 100)))
    return f"{name} of {', '.join(kinds[:3])}" if kinds else name
