"""Training at one site, for baseline and federation: cases -> patches -> steps -> named weights.

The unit of work is a round: `train` runs its local epochs, validates on whole volumes (after each
round, or less often if so configured), keeps the best model by the site's own validation, and
writes a checkpoint after each epoch. A baseline runs the same rounds without exchanging weights in
between.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from c2fnas import (
    checkpoints,
    fine_tuning,
    inference,
    named_weights,
)
from c2fnas.missing_labels import NOTHING_MISSING, MissingLabels
from c2fnas.tensorboard_log import StepProfiler, TensorBoardLog
from experiments.configuration import ExperimentConfig, load_genotype, plan
from experiments.models import builders, devices
from experiments.models.case_evaluation import CaseEvaluation
from experiments.results import model_names, shared_choice
from experiments.results.report_words import REPORTS
from federated.rounds.tasks import check_model_name
from federated.tensors.weights import TensorSpec
from preprocessing import dataset, declared_labels
from preprocessing.case_source import CaseSource, required_ids
from preprocessing.splits import SPLITS
from runkit import events, private, progress

Weights = dict[str, np.ndarray]


class SegmentationTrainer:
    """Trains and scores one model at one site.

    Args:
      config: the experiment's settings, the same at every site of a federation.
      store: the site's prepared cases.
      folder: folder for this model's checkpoints, best weights and logs; it stays at the site.
      label: name of the model in progress bars and logs, e.g. "C1_baseline".
      strategy: the devices to use.
      extra_models: models of earlier runs to lend to the cross-site evaluation, name -> weights.
      lend_local: whether to also lend the best model of this run.
      freeze_encoder: whether the encoder keeps its initial weights.
      profile_steps: first and last step to profile, or None.
      xla: see `training.Trainer`.
      missing: how the loss treats classes that the site's labels never show. Federated sites give
        `builders.missing_labels(config, store)`. A baseline has no other source for these classes
        and trains on the labels as they are.
      federated: whether each round starts from a model that a server sent. Only then do the
        proximal term and the sharing rules of the configuration apply; a baseline has no server.
      writes: whether this process writes files; of several machines that train together, only one
        does.
    Attributes:
      devices: the record of the devices, see `devices.record`.
    """

    vocabulary = REPORTS  # the words that its rows and scores may contain

    def __init__(
        self,
        config: ExperimentConfig,
        store: CaseSource,
        folder: pathlib.Path,
        *,
        label: str,
        strategy: tf.distribute.Strategy,
        extra_models: Mapping[str, pathlib.Path] | None = None,
        lend_local: bool = True,
        freeze_encoder: bool = False,
        profile_steps: tuple[int, int] | None = None,
        xla: bool = False,
        missing: MissingLabels = NOTHING_MISSING,
        federated: bool = False,
        writes: bool = True,
    ):
        self._config, self._store, self._folder, self._label = (
            config,
            store,
            pathlib.Path(folder),
            label,
        )
        self._extra_models, self._lend_local = dict(extra_models or {}), lend_local
        self._federated = federated
        self._window = builders.window_config(config, strategy)
        self._cases = {
            split: [store.open(case_id) for case_id in required_ids(store, split)]
            for split in SPLITS
        }
        self._sampler = builders.patch_sampler(config, self._cases["training"])
        self.steps_per_round = self._sampler.steps_per_epoch * config.local_epochs
        frozen = fine_tuning.encoder_prefixes(load_genotype(config)) if freeze_encoder else ()
        total_steps = self.steps_per_round * config.num_rounds
        self._trainer = builders.build_trainer(
            config,
            strategy,
            total_steps=total_steps,
            frozen=frozen,
            xla=xla,
            missing=missing,
            federated=federated,
        )
        self.devices = devices.record(tf32=config.tf32, deterministic=config.deterministic, xla=xla)
        self._devices_recorded = False
        self._writes = writes
        if writes:
            private.tree(self._folder)
        self._profiler = (
            StepProfiler(self._folder / "tensorboard", *profile_steps)
            if profile_steps and writes
            else None
        )
        self._logits = self._trainer.logits_fn()
        candidate_rounds = shared_choice.candidate_rounds(
            config.num_rounds, config.validation_every, config.shared_candidates
        )
        self._evaluation = CaseEvaluation(
            store,
            self._cases,
            self._logits,
            self._window,
            examples=self._folder / "examples",
            candidate_rounds=candidate_rounds,
            label=label,
        )
        self._history = events.EventLog(self._folder / "history.jsonl")
        self._board = TensorBoardLog(self._folder / "tensorboard")
        self._state: dict[str, Any] = checkpoints.load(self._checkpoint, self._trainer) or {
            "round": 0,
            "start": None,
            "complete": True,
            "best": None,
        }
        self.specs: Sequence[TensorSpec] = builders.tensor_specs(self._trainer.network)
        self.plan = plan(config, load_genotype(config).to_json())
        self.num_examples = len(self._cases["training"])
        self.labels = store.declared
        self.score_every = config.validation_every
        lacks_labels = bool(declared_labels.missing(store.declared))
        self._candidate_rounds = candidate_rounds if lacks_labels else []

    def train(self, weights: Weights, round_number: int) -> tuple[Weights, dict[str, float]]:
        """Trains the local epochs of a round and returns the new weights, with metrics.

        After an interruption, call it again with the same weights: it resumes after the last
        finished epoch, and does not repeat a finished round.

        Args:
          weights: the received global model.
          round_number: number of the round, from 1.
        Raises:
          ValueError: if the settings request something that only a federated trainer does.
        """
        if not self._federated and (self._config.proximal_weight or self._config.share_rules):
            raise ValueError(
                "proximal_weight, keep_at_site or only_receive is set, but this trainer is a "
                "baseline's; make it with federated=True"
            )
        start, begin = _fingerprint(weights), (round_number - 1) * self.steps_per_round
        # Earlier releases also trained rounds that a site had missed; their checkpoint may be from
        # the middle of one.
        elsewhere = not self._state["complete"] and self._trainer.step < begin
        if self._state["round"] != round_number or self._state["start"] != start or elsewhere:
            self._trainer.set_weights(weights)
            # The round number sets the step, even after rounds that this site has missed or that
            # the operator has discarded.
            self._trainer.step = begin
            if self._writes:
                self._board.federated_round(self._trainer.step, round_number)
            self._open_round(round_number, start)
            self._forget_from(round_number)
        if not self._state["complete"]:
            self._trainer.set_received(weights)
            self._run_round()
        return self._trainer.weights(), self._state["metrics"]

    def train_alone(self, initial: Weights) -> Iterator[tuple[int, dict[str, float]]]:
        """Trains all rounds from `initial` without an exchange; resumes an interrupted training.

        Yields:
          The number of each finished round, and its metrics.
        """
        if self._state["round"] == 0:
            self._trainer.set_weights(
                fine_tuning.complete(self._trainer.network, initial, seed=self._config.seed)
            )
            self._open_round(1, None)
        while True:
            if not self._state["complete"]:
                self._run_round()
                yield self._state["round"], self._state["metrics"]
            if self._state["round"] == self._config.num_rounds:
                return
            self._open_round(self._state["round"] + 1, None)

    def _open_round(self, round_number: int, start: str | None) -> None:
        self._state = {**self._state, "round": round_number, "start": start, "complete": False}

    def _forget_from(self, round_number: int) -> None:
        """Forgets the models of a round and of later ones, if the operator has discarded them."""
        best = self._state["best"]
        candidates = [
            path
            for number in self._candidate_rounds
            if number >= round_number and (path := self._candidate_file(number)).is_file()
        ]
        if best is not None and best["round"] >= round_number:
            self._state = {**self._state, "best": None}
        elif not candidates:
            return
        self._save()  # or a kill would bring them back
        if self._writes:
            for path in candidates:
                path.unlink(missing_ok=True)

    def _run_round(self) -> None:
        round_number = self._state["round"]
        end = round_number * self.steps_per_round
        epoch = self._sampler.steps_per_epoch
        parts: dict[str, float] = {}
        if not self._devices_recorded:  # another process may have trained on other devices
            self._record("devices", model=self._label, round=round_number, **self.devices)
            self._devices_recorded = True
        while self._trainer.step < end:
            until = min(end, (self._trainer.step // epoch + 1) * epoch)
            parts = self._train_until(until, f"{self._label} round {round_number}")
            self._record(
                "epoch", model=self._label, round=round_number, step=self._trainer.step, **parts
            )
            if until < end:
                self._save()
        if (
            round_number % self._config.validation_every == 0
            or round_number == self._config.num_rounds
        ):
            score = self._choose(round_number)
            parts = {**parts, **{f"validation_{name}": value for name, value in score.items()}}
        self._state = {**self._state, "complete": True, "metrics": parts}
        self._save()

    def _choose(self, round_number: int) -> dict[str, float]:
        """Validates the weights and saves them if they are the best so far; returns their score."""
        score = self.validate(f"{self._label} validation")
        self._record(
            "validation", model=self._label, round=round_number, step=self._trainer.step, **score
        )
        if self._writes:
            self._board.validation(self._trainer.step, score)
        best = self._state["best"]
        if best is None or score["dice"] > best["dice"]:
            self._state = {**self._state, "best": {"dice": score["dice"], "round": round_number}}
            self._save_model(self._best_file, round_number)
        if round_number in self._candidate_rounds:
            self._save_model(self._candidate_file(round_number), round_number)
        return score

    def _train_until(self, until: int, label: str) -> dict[str, float]:
        if self._profiler is not None:
            self._profiler.before(self._trainer.step + 1)
        return self._trainer.train(
            self._patches,
            until,
            on_step=self._after_step,
            label=label,
            describe=self._describe_patches,
        )

    def _after_step(self, step: int, values: Mapping[str, float]) -> None:
        if self._writes:
            self._board.training_step(step, values)
        if self._profiler is not None:
            self._profiler.after(step)
            self._profiler.before(step + 1)

    def _describe_patches(self, step: int, slots: Sequence[int]) -> str:
        """Returns the cases' running numbers, which may leave the site, unlike identifiers."""
        numbers = sorted(
            {
                self._cases["training"][self._sampler.choose(step, slot).case].number
                for slot in slots
            }
        )
        cases = "cases" if len(numbers) > 1 else "case"
        listed = ", ".join(map(str, numbers))
        return f"training {cases} {listed} (running numbers of the case store)"

    def _record(self, event: str, **values: Any) -> None:
        if self._writes:
            self._history.append(event, **values)

    def _save_model(self, path: pathlib.Path, round_number: int) -> None:
        if self._writes:
            about = {
                "model": self._label,
                "round": str(round_number),
                "step": str(self._trainer.step),
                "genotype": json.dumps(self._trainer.network.genotype.to_json()),
                # The genotype's name instead of its file: these weights may leave the site, but
                # a path may not.
                "configuration": json.dumps(
                    {**self._config.to_json(), "genotype": self._trainer.network.genotype.name}
                ),
            }
            named_weights.save(path, self._trainer.weights(), about)

    def score(self, weights: Weights) -> dict[str, float]:
        """Returns the mean validation Dice of the given weights; keeps the trained weights."""
        kept = self._trainer.weights()
        self._trainer.set_weights(weights)
        try:
            score = self.validate(f"{self._label} scores the global model")
        finally:
            self._trainer.set_weights(kept)
        self._record("global_score", model=self._label, step=self._trainer.step, **score)
        return score

    def validate(self, what: str) -> dict[str, float]:
        """Returns the mean Dice of the current weights on the validation cases."""
        cases = progress.bar(self._cases["validation"], what=what, unit="case")
        return inference.validate(cases, self._logits, self._window)

    @property
    def best_score(self) -> dict[str, Any] | None:
        """Validation `dice` and `round` of the best model; None before the first validation."""
        return self._state["best"]

    def best_model(self) -> Weights:
        """Returns the weights of the best model by the site's validation."""
        return named_weights.load(self._best_file)[0]

    def local_models(self) -> dict[str, Weights]:
        """Returns the models that this site lends to the cross-site evaluation, by name.

        These are earlier models and, if `lend_local`, the best federated model and its candidates.
        """
        models = {name: named_weights.load(path)[0] for name, path in self._extra_models.items()}
        if self._state["best"] is None:  # the run ended before the first validation
            self._choose(self._state["round"])
            self._save()
        if self._lend_local:
            models[self._label] = self.best_model()
            for number in self._candidate_rounds:
                if self._candidate_file(number).is_file():  # a run may end before its last round
                    models[model_names.candidate_name(self._label, number)] = named_weights.load(
                        self._candidate_file(number)
                    )[0]
        return models

    def evaluate(self, model_name: str, weights: Weights) -> list[dict[str, Any]]:
        """Scores a model on the site's test cases, on the training grid and on their own grids.

        Masks of the first few cases are kept in the site's folder, for its own figures.

        Returns:
          Rows with running number and scores (see case_rows), without identifier, path or picture.
        Raises:
          ServerMisbehaves: for a name that cannot be a model's, since it becomes a file name.
        """
        check_model_name(model_name)
        kept = self._trainer.weights()  # the run may return to an earlier round
        self._trainer.set_weights(weights)
        try:
            return self._evaluation.rows(model_name)
        finally:
            self._trainer.set_weights(kept)

    def _patches(self, start: int, stop: int) -> tf.data.Dataset:
        return dataset.training_dataset(self._sampler, start, stop)

    def _candidate_file(self, round_number: int) -> pathlib.Path:
        return self._folder / "candidates" / f"round_{round_number:03d}.safetensors"

    @property
    def _checkpoint(self) -> pathlib.Path:
        return self._folder / "checkpoint"

    @property
    def _best_file(self) -> pathlib.Path:
        return self._folder / "best.safetensors"

    def _save(self) -> None:
        if self._writes:
            extra = {**self._state, "configuration": self._config.to_json()}
            checkpoints.save(
                self._checkpoint, self._trainer, extra, keep=self._config.keep_checkpoints
            )


def _fingerprint(weights: Weights) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode("utf-8"))
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()
