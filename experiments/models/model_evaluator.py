"""A site's part in an evaluation without training: scoring the models that the server sends."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from c2fnas import inference, named_weights
from experiments.configuration import ExperimentConfig, load_genotype, plan
from experiments.models.builders import (
    build_network,
    tensor_specs,
    window_config,
)
from experiments.models.case_evaluation import CaseEvaluation
from experiments.results.report_words import REPORTS
from federated.errors import ServerMisbehaves
from federated.rounds.tasks import check_model_name
from federated.tensors.weights import TensorSpec
from preprocessing.case_source import CaseSource, required_ids
from runkit import private

Weights = dict[str, np.ndarray]


class WithoutTraining:
    """What a `SiteTrainer` lacks in a run without rounds: it lends no model and trains none."""

    vocabulary = REPORTS

    def local_models(self) -> Mapping[str, Weights]:
        return {}

    def score(self, weights: Weights) -> dict[str, float]:
        raise ServerMisbehaves.because("asks for validation scores in a run without training")

    def train(self, weights: Weights, round_number: int) -> tuple[Weights, dict[str, float]]:
        raise ServerMisbehaves.because("asks for training in a run without training")


class ModelEvaluator(WithoutTraining):
    """A `SiteTrainer` of a run without rounds. It needs test cases only, and lends no model.

    Args:
      config: the experiment's settings, with `num_rounds` 0.
      store: the site's prepared cases.
      folder: folder for the masks that are kept; it stays at the site.
      strategy: the devices to use.
    Attributes:
      num_examples: the number of test cases.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        store: CaseSource,
        folder: pathlib.Path,
        *,
        strategy: tf.distribute.Strategy,
    ):
        cases = {
            # A site without tumours also scores its validation cases, if there are any.
            "validation": [store.open(case_id) for case_id in store.case_ids("validation")],
            "test": [store.open(case_id) for case_id in required_ids(store, "test")],
        }
        private.tree(folder)
        with strategy.scope():
            self._network = build_network(dataclasses.replace(config, vae="none"))
        self._evaluation = CaseEvaluation(
            store,
            cases,
            inference.logits_fn(self._network, strategy),
            window_config(config, strategy),
            examples=folder / "examples",
            label=store.site,
        )
        self.specs: Sequence[TensorSpec] = tensor_specs(self._network)
        self.plan = plan(config, load_genotype(config).to_json())
        self.num_examples, self.labels = len(cases["test"]), store.declared

    def evaluate(self, model_name: str, weights: Weights) -> list[dict[str, Any]]:
        """Scores a model on the site's test cases; see `CaseEvaluation.rows`.

        Raises:
          ServerMisbehaves: for a name that cannot be a model's, since it becomes a file name.
        """
        check_model_name(model_name)
        named_weights.assign(self._network, weights)
        return self._evaluation.rows(model_name)
