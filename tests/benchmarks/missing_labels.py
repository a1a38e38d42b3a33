"""What a training step costs under each loss for missing labels, at the demo's size (8 filters, 48^3, batch 4), beside the loss as it is.

.venv/py3.11/bin/python -m tests.benchmarks.missing_labels --repetitions=3
"""

from __future__ import annotations

import statistics

_CASES = {
    "background": ("background", False),
    "exclude": ("exclude", False),
    "restricted": ("restricted", False),
    "restricted, evidence": ("restricted", True),
    "marginal": ("marginal", False),
    "distil": ("distil", False),
}


def step(*, treatment: str, evidence: bool, threads: int = 2, steps: int = 12) -> dict[str, float]:
    import numpy as np
    import tensorflow as tf

    from c2fnas import genotype, keras_stack, network, training
    from c2fnas.losses import LossConfig
    from c2fnas.missing_labels import MissingLabels

    keras_stack.set_up(1, threads, samples=4)
    missing = MissingLabels(classes=(2,), treatment=treatment, evidence=evidence)
    gene = genotype.named("c2fnas").with_size(filters=8, classes=3)
    built = network.build(gene, patch_size=(48, 48, 48))
    received = network.build(gene, patch_size=(48, 48, 48), vae=None) if missing.needs_received else None
    config = training.TrainingConfig(batch_size=4, total_steps=steps, seed=1, loss=LossConfig(missing=missing))
    trainer = training.Trainer(built, config, tf.distribute.get_strategy(), received=received)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.uniform(-1, 1, (4, 48, 48, 48, 1)).astype(np.float16),
        "label": rng.integers(0, 2, (4, 48, 48, 48), dtype=np.uint8),
        "sample_seed": np.zeros((4, 2), np.int32),
    }
    seconds = []
    data = tf.data.Dataset.from_tensors(batch).repeat()
    trainer.train(
        lambda start, stop: data.take(stop - start), steps, on_step=lambda _, values: seconds.append(4 / values["patches_per_second"])
    )
    return {"step_s": statistics.median(seconds[2:])}


def main() -> None:
    from tests.benchmarks.side_by_side import Candidate, arguments, measure, table

    flags = arguments(__doc__)
    candidates = [
        Candidate(name, "tests.benchmarks.missing_labels:step", arguments={"treatment": treatment, "evidence": evidence})
        for name, (treatment, evidence) in _CASES.items()
    ]
    print(table(measure(candidates, repetitions=flags.repetitions, warm_up=0), figure="step_s", reference="background"))


if __name__ == "__main__":
    main()
