"""A site's part in scoring paths of a supernet: no training, and validation cases only.

The server sends the supernet's weights once for each path. The name of the model encodes the path,
e.g. path_201122110022: one digit per cell, the position of its operation in the plan's list. Rows
leave the site as in any other evaluation. No test case is used, so a search cannot adapt to them.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from c2fnas import inference, named_weights
from c2fnas.scores import case_scores
from c2fnas.search.supernet import Supernet
from experiments.configuration import ExperimentConfig, load_genotype, plan
from experiments.models.builders import (
    build_network,
    tensor_specs,
    window_config,
)
from experiments.models.model_evaluator import WithoutTraining
from experiments.results import case_rows, path_names, shared_choice
from federated.errors import ServerMisbehaves
from federated.site import answers
from federated.site.journal import Journal
from federated.tensors.weights import TensorSpec
from preprocessing.case_source import CaseSource, PreparedCase, required_ids
from runkit import atomic, private, progress

Weights = dict[str, np.ndarray]

_JOURNAL, _EARLIER = "journal", "earlier"  # folders


def take_journal(folder: pathlib.Path, run: str) -> None:
    """Puts the journal of a run in its place, `journal`; that of a finished run goes to `earlier`.

    Every generation of a search is a separate run, and a journal belongs to one run. What the site
    has answered in a run stays on its disk, and counts again if the server goes back to that run.
    The journal of an unfinished run stays in its place.

    Args:
      folder: the site's folder of these evaluations.
      run: the run that the server leads.
    """
    journal, earlier = folder / _JOURNAL, private.make(folder / _EARLIER)
    if journal.is_dir():
        found = Journal(journal)
        if found.run in (None, run) or not found.finished:
            return
        os.replace(journal, earlier / str(found.run))
    if (earlier / run).is_dir():
        os.replace(earlier / run, journal)
    for changed in (earlier, folder):
        atomic.sync_directory(changed)


def answered_before(folder: pathlib.Path) -> str:
    """Returns how many models the site has scored in earlier generations; "" if in none."""
    files = list((folder / _EARLIER).glob(f"*/{answers.NAME}"))
    models = sum(len(atomic.read_json(file)["rows"]) for file in files)
    return (
        f"answered before: {models} models in {len(files)} earlier generations, whose records are "
        f"in {folder / _EARLIER}"
        if files
        else ""
    )


class PathEvaluator(WithoutTraining):
    """A `SiteTrainer` of a run without rounds, which scores paths of one supernet.

    Args:
      config: the experiment's settings, with `num_rounds` 0 and `supernet`.
      store: the site's prepared cases.
      folder: the site's folder for this evaluation, which holds its journal.
      strategy: the devices to use.
    Attributes:
      num_examples: the number of validation cases.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        store: CaseSource,
        folder: pathlib.Path,
        *,
        strategy: tf.distribute.Strategy,
    ):
        self._store = store
        self._cases = [store.open(case_id) for case_id in required_ids(store, "validation")]
        private.tree(folder)
        with strategy.scope():
            network = build_network(dataclasses.replace(config, vae="none"))
        assert isinstance(network, Supernet)
        self._network = network
        self._logits = inference.logits_fn(network, strategy)
        self._window = window_config(config, strategy)
        self.specs: Sequence[TensorSpec] = tensor_specs(network)
        self.plan = plan(config, load_genotype(config).to_json())
        self.num_examples, self.labels = len(self._cases), store.declared

    def evaluate(self, model_name: str, weights: Weights) -> list[dict[str, Any]]:
        """Returns one row per validation case for the path that the name encodes.

        Raises:
          ServerMisbehaves: if the name does not encode a path of this supernet.
        """
        try:
            gene = self._network.space.checked(path_names.gene_of(model_name))
        except ValueError as error:
            raise ServerMisbehaves.because(f"asks for scores of {model_name!r}: {error}") from error
        named_weights.assign(self._network, weights)
        self._network.choose(gene)
        what = f"{self._store.site} scores {model_name}"
        return [
            {
                "model": model_name,
                "site": self._store.site,
                "case": case.number,
                "grid": shared_choice.GRID,
                **self._scores(case),
            }
            for case in progress.bar(self._cases, what=what, unit="case")
        ]

    def _scores(self, case: PreparedCase) -> dict[str, Any]:
        image, truth = np.asarray(case.image, np.float32), np.asarray(case.label)
        mask = inference.segment(image, self._logits, self._window)
        return case_rows.columns(case_scores.compare(mask, truth, case.target_mm))
