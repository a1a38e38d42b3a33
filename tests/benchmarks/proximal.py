"""Times a training step with FedProx's proximal term, beside the same step without it.

At the demo's size: 8 filters, patches of 48^3 voxels, batch 2.

    .venv/py3.11/bin/python -m tests.benchmarks.proximal --repetitions=3
"""

from __future__ import annotations


def step(*, weight: float, threads: int = 2, steps: int = 12) -> dict[str, float]:
    import tensorflow as tf

    from c2fnas import genotype, network, training
    from c2fnas.threads import set_up
    from tests.benchmarks.steps import step_seconds, training_config

    set_up(1, threads, samples=2)
    gene = genotype.load("c2fnas").with_size(filters=8, classes=3)
    built = network.build(gene, patch_size=(48, 48, 48))
    config = training_config(batch_size=2, total_steps=steps, proximal_weight=weight)
    trainer = training.Trainer(built, config, tf.distribute.get_strategy())
    trainer.set_received(trainer.weights())
    return {"step_s": step_seconds(trainer, steps=steps, leave_out=2)}


def main() -> None:
    from tests.benchmarks.side_by_side import Candidate, arguments, measure, table

    flags = arguments(__doc__)
    candidates = [
        Candidate(name, "tests.benchmarks.proximal:step", arguments={"weight": weight})
        for name, weight in {"without": 0.0, "proximal_weight=0.01": 0.01}.items()
    ]
    print(
        table(
            measure(candidates, repetitions=flags.repetitions, warm_up=0),
            figure="step_s",
            reference="without",
        )
    )


if __name__ == "__main__":
    main()
