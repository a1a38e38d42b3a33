"""What a site brings to a run: its training and its evaluation, as the loop calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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


def check_num_examples(trainer: SiteTrainer) -> None:
    """Raises ValueError for a number that JSON, protobuf and the engines do not all take."""
    number = trainer.num_examples
    if type(number) is not int:
        raise ValueError(
            f"the trainer's num_examples is {number!r}, of type {type(number).__name__}; expected "
            "a Python int, e.g. len(cases)"
        )
