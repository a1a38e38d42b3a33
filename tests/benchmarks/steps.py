"""The time of a training step on noise, which measures a network and its loss."""

from __future__ import annotations

import statistics
from typing import Any


def training_config(**chosen: Any) -> Any:
    """Returns a `c2fnas.training.TrainingConfig`: the paper's values, except for those given."""
    from c2fnas import training

    rates = {"learning_rate": 1e-4, "final_learning_rate": 1e-5, "vae_rate": 1.0}
    return training.TrainingConfig(
        **{"seed": 1, "clip_norm": 0.0, "non_finite": "stop", **rates, **chosen}
    )


def step_seconds(trainer: Any, *, steps: int, leave_out: int) -> float:
    """Returns the median seconds of a step of a `c2fnas.training.Trainer`.

    The first few steps, which compile, are left out.
    """
    import numpy as np
    import tensorflow as tf

    batch, patch, rng = (
        trainer.config.batch_size,
        trainer.network.patch_size,
        np.random.default_rng(0),
    )
    one = {
        "image": rng.uniform(-1, 1, (batch, *patch, 1)).astype(np.float16),
        "label": rng.integers(0, 2, (batch, *patch), dtype=np.uint8),
        "sample_seed": np.zeros((batch, 2), np.int32),
    }
    seconds = []
    data = tf.data.Dataset.from_tensors(one).repeat()
    trainer.train(
        lambda start, stop: data.take(stop - start),
        steps,
        on_step=lambda _, values: seconds.append(batch / values["patches_per_second"]),
    )
    return statistics.median(seconds[leave_out:])
