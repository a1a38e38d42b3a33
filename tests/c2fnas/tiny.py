"""A network of three small cells, one down and one up, and data that depend only on the step.

With them, a test takes seconds instead of minutes.
"""

from __future__ import annotations

import pathlib
import types

import numpy as np
import tensorflow as tf

from c2fnas import model_folder, named_weights, network, training
from c2fnas.genotype import CellGene, Genotype
from runkit import randomness

# Rewriting a graph costs more time than it saves in a few steps of a small network. It does not
# decide which kernels oneDNN uses.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

PATCH = (16, 16, 8)
GENOTYPE = Genotype(
    name="tiny",
    cells=(CellGene((0,), 2, "conv3d"), CellGene((1, 0), 1, "p3d"), CellGene((2,), 1, "conv2d")),
    filters=4,
)
PLAN = {
    "spacing_mm": [3.0, 3.0, 3.0],
    "window_hu": [-200.0, 250.0],
    "classes": {"0": "background", "1": "pancreas", "2": "tumour"},
    "inference": {"window": [16, 16, 8], "overlap": 0.5, "blending": "gaussian"},
}
SHALLOW = Genotype(
    name="two cells", cells=(CellGene((0,), 1, "conv2d"), CellGene((1,), 1, "conv2d")), filters=2
)  # the smallest network


def build(genotype: Genotype = GENOTYPE, **changes) -> network.Network:
    return network.build(genotype, **{"patch_size": PATCH, "latent_size": 8, "seed": 3, **changes})


def save_model(folder: pathlib.Path, **plan: object) -> None:
    """Writes an untrained network as a model folder; `plan` changes entries of `PLAN`."""
    model = model_folder.Model(
        name="tiny", weights=named_weights.read(build()), genotype=GENOTYPE, plan={**PLAN, **plan}
    )
    model_folder.save(folder, model)


def config(**changes) -> training.TrainingConfig:
    return training.TrainingConfig(
        **{
            "batch_size": 4,
            "total_steps": 6,
            "learning_rate": 1e-2,
            "final_learning_rate": 1e-3,
            "vae_rate": 1.0,
            "clip_norm": 0.0,
            "non_finite": "stop",
            "seed": 0,
            **changes,
        }
    )


def trainer(genotype: Genotype = GENOTYPE, **changes) -> training.Trainer:
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        built = build(genotype)
    return training.Trainer(built, config(**changes), strategy)


def batch(step: int, size: int = 4) -> dict[str, np.ndarray]:
    """Patches of noise with a bright box of class 1 and a dark one of class 2.

    Step and slot decide where the boxes are.
    """
    images, labels, seeds = [], [], []
    for slot in range(size):
        random = randomness.generator(11, step, slot)
        image, label = random.normal(0.0, 0.1, PATCH), np.zeros(PATCH, np.uint8)
        for value, shift in ((1, 0.7), (2, -0.7)):
            corner = [random.integers(0, n - 4) for n in PATCH]
            box = tuple(slice(c, c + 4) for c in corner)
            image[box], label[box] = image[box] + shift, value
        images.append(image[..., np.newaxis])
        labels.append(label)
        seeds.append(randomness.seed_pair(11, "sample", step, slot))
    return {
        "image": np.clip(np.stack(images), -1, 1).astype(np.float16),
        "label": np.stack(labels),
        "sample_seed": np.stack(seeds),
    }


def datasets(start: int, stop: int) -> tf.data.Dataset:
    steps = [batch(step) for step in range(start, stop)]
    return tf.data.Dataset.from_tensor_slices(
        {name: np.stack([one[name] for one in steps]) for name in steps[0]}
    )


def case(step: int) -> types.SimpleNamespace:
    one = batch(step, size=1)
    return types.SimpleNamespace(image=one["image"][0, ..., 0], label=one["label"][0])


def make_deterministic() -> None:
    tf.keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
