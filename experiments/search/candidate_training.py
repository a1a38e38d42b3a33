"""Trains one genotype alone for a small budget and scores it on whole cases.

A training is a function of genotype, seed, number of steps and settings. It writes checkpoints, so
a stopped training can resume and gives the same scores.
"""

from __future__ import annotations

import dataclasses
import gc
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf

from c2fnas import checkpoints, inference, named_weights
from c2fnas.genotype import Genotype
from c2fnas.inference import LogitsFn
from c2fnas.scores import metrics
from c2fnas.sliding_window import WindowConfig
from c2fnas.training import NonFiniteLoss
from experiments.configuration import ExperimentConfig
from experiments.models import builders
from experiments.results.verdicts.search_verdicts import SearchedCase
from preprocessing import dataset
from preprocessing.case_source import CaseSource, PreparedCase, required_ids
from runkit import atomic, progress
from runkit.classes import FOREGROUND

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class SiteCase:
    """A case and the site that it belongs to."""

    site: str
    case: PreparedCase


@dataclasses.dataclass(frozen=True)
class TrainedScores:
    """The scores of one training.

    Attributes:
      rows: rows of every split that was scored.
      seconds: wall time of training and scoring, including interrupted attempts.
    """

    rows: Mapping[str, list[SearchedCase]]
    seconds: float


def cases_of(stores: Iterable[CaseSource], split: str) -> list[SiteCase]:
    """Returns the cases of a split at all sites.

    Raises:
      ValueError: naming a site without such cases.
    """
    return [
        SiteCase(store.site, store.open(case_id))
        for store in stores
        for case_id in required_ids(store, split)
    ]


def train_and_score(
    config: ExperimentConfig,
    genotype: Genotype,
    stores: Sequence[CaseSource],
    folder: pathlib.Path,
    *,
    seed: int,
    steps: int,
    splits: Sequence[str],
    strategy: tf.distribute.Strategy,
    label: str,
    checkpoint_every: int = 500,
) -> TrainedScores:
    """Trains a genotype on the training cases of all sites and scores it.

    Args:
      config: settings of the training; its genotype and seed are replaced.
      genotype: its filters and classes are replaced by those of the settings.
      stores: prepared cases of each site.
      folder: folder for the genotype and the checkpoint; removed at the end.
      seed: seed of initial weights and patches.
      steps: number of steps, over which the learning rate falls.
      splits: which cases to score. A search may only use "validation".
      label: name in progress bars.
      checkpoint_every: steps between two checkpoints.
    Raises:
      NonFiniteLoss: if the training diverges.
    """
    begin, earlier = time.monotonic(), 0.0
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "genotype.json"
    atomic.write_json(file, genotype.to_json())
    own = dataclasses.replace(config, genotype=str(file), seed=seed)
    training_cases = [one.case for one in cases_of(stores, "training")]
    sampler = builders.patch_sampler(own, training_cases)
    trainer = builders.build_trainer(own, strategy, total_steps=steps)
    trainer.set_weights(named_weights.initial(trainer.network, seed))
    if (kept := checkpoints.load(folder, trainer)) is not None:
        earlier = float(kept["seconds"])
    while trainer.step < steps:
        until = min(steps, (trainer.step // checkpoint_every + 1) * checkpoint_every)
        try:
            trainer.train(
                lambda start, stop: dataset.training_dataset(sampler, start, stop),
                until,
                label=label,
            )
        except NonFiniteLoss:
            shutil.rmtree(folder)
            raise
        if until < steps:
            seconds = earlier + time.monotonic() - begin
            checkpoints.save(folder, trainer, {"seconds": seconds})
    window = builders.window_config(own, strategy)
    rows = {
        split: scored(
            progress.bar(cases_of(stores, split), what=f"{label} {split}", unit="case"),
            trainer.logits_fn(),
            window,
        )
        for split in splits
    }
    shutil.rmtree(folder)
    return TrainedScores(rows, earlier + time.monotonic() - begin)


def scored(cases: Iterable[SiteCase], logits: LogitsFn, window: WindowConfig) -> list[SearchedCase]:
    """Returns the Dice of each case on the training grid, with the current weights."""
    rows: list[SearchedCase] = []
    for one in cases:
        mask = inference.segment(np.asarray(one.case.image, np.float32), logits, window)
        rows.append(row(one.site, one.case.number, mask, np.asarray(one.case.label)))
    return rows


def row(site: str, case: int, mask: np.ndarray, truth: np.ndarray) -> SearchedCase:
    """Returns the scores of a mask.

    Args:
      mask, truth: uint8 [x, y, z].
    """
    dices = {FOREGROUND[value]: dice for value, dice in metrics.dice(mask, truth).items()}
    shown = [dices[name] or 0.0 for value, name in FOREGROUND.items() if np.any(truth == value)]
    return SearchedCase(
        site=site,
        case=case,
        score=float(np.mean(shown)) if shown else 0.0,
        dice_pancreas=dices["pancreas"],
        dice_tumour=dices["tumour"],
    )


def released_or_zero(
    train: Callable[[], TrainedScores], stores: Sequence[CaseSource], splits: Sequence[str]
) -> TrainedScores:
    """Returns the scores of a training; 0 on every case if it diverged.

    A training that diverges does so on every attempt, and would keep the others from finishing.
    """
    try:
        return released(train)
    except NonFiniteLoss as error:
        print(f"scores 0, because it diverged: {error}", flush=True)
    rows = {
        split: [
            SearchedCase(
                site=one.site, case=one.case.number, score=0.0, dice_pancreas=0.0, dice_tumour=0.0
            )
            for one in cases_of(stores, split)
        ]
        for split in splits
    }
    return TrainedScores(rows, 0.0)


def released(work: Callable[[], _Result]) -> _Result:
    """Returns the result of `work` after releasing the memory of its networks.

    Keras keeps every network of a process in global tables, and a search builds hundreds.
    """
    try:
        return work()
    finally:
        tf.keras.backend.clear_session()
        gc.collect()
