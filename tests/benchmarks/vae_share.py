"""What the VAE branch costs at the paper's size: 32 filters, 96^3, one patch; its weights, MACs, and the step's time without and with it.

.venv/py3.11/bin/python -m tests.benchmarks.vae_share --repetitions=3
"""

from __future__ import annotations

import statistics


def step(*, vae: str | None, threads: int = 2) -> dict[str, float]:
    import numpy as np
    import tensorflow as tf

    from c2fnas import genotype, keras_stack, network, training, vae_branch

    keras_stack.set_up(1, threads)
    built = network.build(genotype.named("c2fnas"), patch_size=(96, 96, 96), vae=vae)
    weights, macs = vae_branch.cost(built)
    config = training.TrainingConfig(batch_size=1, total_steps=3, seed=1)
    trainer = training.Trainer(built, config, tf.distribute.get_strategy())
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.uniform(-1, 1, (1, 96, 96, 96, 1)).astype(np.float16),
        "label": rng.integers(0, 3, (1, 96, 96, 96), dtype=np.uint8),
        "sample_seed": np.zeros((1, 2), np.int32),
    }
    seconds = []
    data = tf.data.Dataset.from_tensors(batch).repeat()
    trainer.train(
        lambda start, stop: data.take(stop - start), 3, on_step=lambda _, values: seconds.append(1 / values["patches_per_second"])
    )
    return {"step_s": statistics.median(seconds[1:]), "branch_weights": float(weights), "branch_gmac": macs / 1e9}


def main() -> None:
    from tests.benchmarks.side_by_side import Candidate, arguments, measure, table

    flags = arguments(__doc__)
    function = "tests.benchmarks.vae_share:step"
    candidates = [Candidate("without", function, arguments={"vae": None}), Candidate("reduced", function, arguments={"vae": "reduced"})]
    figures = measure(candidates, repetitions=flags.repetitions, warm_up=0)
    print(table(figures, figure="step_s", reference="without"))
    print({name: statistics.median(values) for name, values in figures["reduced"].items()})


if __name__ == "__main__":
    main()
