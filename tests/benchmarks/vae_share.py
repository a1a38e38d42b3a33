"""Measures the cost of the VAE branch: its weights, its MACs, and a step without and with it.

At the paper's size: 32 filters, one patch of 96^3 voxels.

    .venv/py3.11/bin/python -m tests.benchmarks.vae_share --repetitions=3
"""

from __future__ import annotations

import statistics


def step(*, vae: str | None, threads: int = 2) -> dict[str, float]:
    import tensorflow as tf

    from c2fnas import genotype, network, training, vae_branch
    from c2fnas.threads import set_up
    from tests.benchmarks.steps import step_seconds, training_config

    set_up(1, threads)
    built = network.build(genotype.load("c2fnas"), patch_size=(96, 96, 96), vae=vae)
    weights, macs = vae_branch.cost(built)
    config = training_config(batch_size=1, total_steps=3)
    trainer = training.Trainer(built, config, tf.distribute.get_strategy())
    seconds = step_seconds(trainer, steps=3, leave_out=1)
    return {"step_s": seconds, "branch_weights": float(weights), "branch_gmac": macs / 1e9}


def main() -> None:
    from tests.benchmarks.side_by_side import Candidate, arguments, measure, table

    flags = arguments(__doc__)
    function = "tests.benchmarks.vae_share:step"
    candidates = [
        Candidate("without", function, arguments={"vae": None}),
        Candidate("reduced", function, arguments={"vae": "reduced"}),
    ]
    figures = measure(candidates, repetitions=flags.repetitions, warm_up=0)
    print(table(figures, figure="step_s", reference="without"))
    print({name: statistics.median(values) for name, values in figures["reduced"].items()})


if __name__ == "__main__":
    main()
