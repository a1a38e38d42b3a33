"""Builds what a configuration describes: network, trainer, patch sampler and sliding window."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from c2fnas import (
    inference,
    named_weights,
    network,
    sliding_window,
    training,
)
from c2fnas.losses import LossConfig
from c2fnas.missing_labels import NOTHING_MISSING, MissingLabels
from c2fnas.search import supernet
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.supernet_trainer import SupernetTrainer
from c2fnas.train_step import Augment
from experiments.configuration import ExperimentConfig, load_genotype
from federated.rounds.sharing import ShareRules
from federated.tensors.weights import TensorSpec
from preprocessing import declared_labels
from preprocessing.augmentation import AugmentationConfig, augment
from preprocessing.case_source import CaseSource, PreparedCase
from preprocessing.patches import PatchConfig, PatchSampler


def build_network(config: ExperimentConfig) -> network.Network:
    """Builds the network of a configuration. Call it inside the strategy's scope."""
    settings: dict[str, Any] = {
        "patch_size": config.patch_size,
        "vae": None if config.vae == "none" else config.vae,
        "latent_size": config.latent_size,
        "class_prior": config.class_prior if config.classifier_bias == "log_prior" else None,
        "precision": config.precision,
        "instance_norm": config.instance_norm,
    }
    if config.supernet:
        return supernet.build(operation_space(config), **settings)
    return network.build(load_genotype(config), **settings)


def operation_space(config: ExperimentConfig) -> OperationSpace:
    """Returns the paths of the supernet over a configuration's topology."""
    return OperationSpace(load_genotype(config))


def tensor_specs(built: network.Network) -> tuple[TensorSpec, ...]:
    """Returns the specs of a network's weights for the weight exchange, all float32."""
    return tuple(
        TensorSpec(name, "F32", shape) for name, (shape, _) in named_weights.specs(built).items()
    )


def window_config(
    config: ExperimentConfig, strategy: tf.distribute.Strategy | None = None
) -> sliding_window.WindowConfig:
    """Returns the sliding window; the strategy determines how many windows run at a time."""
    return sliding_window.WindowConfig(
        size=config.inference_window,
        overlap=config.inference_overlap,
        blending=config.inference_blending,
        batch=inference.parallel_windows(strategy),
        multiple=load_genotype(config).size_multiple,
    )


def patch_sampler(config: ExperimentConfig, cases: Sequence[PreparedCase]) -> PatchSampler:
    """Returns the sampler that draws a configuration's patches from cases."""
    return PatchSampler(
        cases,
        PatchConfig(
            size=config.patch_size,
            foreground_fraction=config.foreground_fraction,
            tumour_fraction=config.tumour_fraction,
            patches_per_case=config.patches_per_case,
            batch_size=config.batch_size,
            seed=config.seed,
        ),
    )


def missing_labels(config: ExperimentConfig, store: CaseSource) -> MissingLabels:
    """Returns how a federated site's loss treats classes that its labels never show."""
    absent = declared_labels.known_absent(store.declared)
    return MissingLabels(
        classes=declared_labels.missing(store.declared),
        treatment=config.missing_labels,
        evidence=config.absence_evidence and absent,
    )


def build_trainer(
    config: ExperimentConfig,
    strategy: tf.distribute.Strategy,
    *,
    total_steps: int,
    frozen: tuple[str, ...] = (),
    xla: bool = False,
    missing: MissingLabels = NOTHING_MISSING,
    federated: bool = False,
) -> training.Trainer:
    """Builds network and optimizer of a configuration, on a strategy's devices.

    Args:
      federated: as in `site_trainer.SegmentationTrainer`.
    Raises:
      ValueError: for share rules that do not fit the network's weights.
    """
    with strategy.scope():
        network = build_network(config)
        received = (
            build_network(dataclasses.replace(config, vae="none"))
            if missing.needs_received
            else None
        )
    sharing = (config.share_rules if federated else ShareRules()).of(network.variables)
    trainer: type[training.Trainer] = SupernetTrainer if config.supernet else training.Trainer
    return trainer(
        network,
        training.TrainingConfig(
            batch_size=config.batch_size,
            total_steps=total_steps,
            learning_rate=config.learning_rate,
            final_learning_rate=config.final_learning_rate,
            vae_rate=config.vae_rate,
            loss=LossConfig(
                kl=LossConfig.kl * config.vae_weight,
                reconstruction=LossConfig.reconstruction * config.vae_weight,
                kl_kind=config.kl,
                missing=missing,
            ),
            clip_norm=config.clip_norm,
            non_finite=config.non_finite,
            # Training arrays that the next round replaces would fit the rest to lost weights.
            frozen=(*frozen, *sorted(sharing.received)),
            proximal_weight=config.proximal_weight if federated else 0.0,
            private=sharing.kept,
            seed=config.seed,
        ),
        strategy,
        xla=xla,
        augment=augmentation(config),
        received=received,
    )


def augmentation(config: ExperimentConfig) -> Augment | None:
    """Returns the augmentation of patches in the training step; None if there is none."""
    chosen = AugmentationConfig(
        flip_axes=config.flip_axes,
        intensity_scale=config.intensity_scale,
        intensity_shift=config.intensity_shift,
    )
    return functools.partial(augment, config=chosen) if chosen.active else None
