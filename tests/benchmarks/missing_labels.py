"""Times a training step with each treatment of missing labels, beside the ordinary loss.

At the demo's size: 8 filters, patches of 48^3 voxels, batch 4.

    .venv/py3.11/bin/python -m tests.benchmarks.missing_labels --repetitions=3
"""

from __future__ import annotations

_CASES = {
    "background": ("background", False),
    "exclude": ("exclude", False),
    "restricted": ("restricted", False),
    "restricted, evidence": ("restricted", True),
    "marginal": ("marginal", False),
    "distil": ("distil", False),
}


def step(*, treatment: str, evidence: bool, threads: int = 2, steps: int = 12) -> dict[str, float]:
    import tensorflow as tf

    from c2fnas import genotype, network, training
    from c2fnas.losses import LossConfig
    from c2fnas.missing_labels import MissingLabels
    from c2fnas.threads import set_up
    from tests.benchmarks.steps import step_seconds, training_config

    set_up(1, threads, samples=4)
    missing = MissingLabels(classes=(2,), treatment=treatment, evidence=evidence)
    gene = genotype.load("c2fnas").with_size(filters=8, classes=3)
    built = network.build(gene, patch_size=(48, 48, 48))
    received = (
        network.build(gene, patch_size=(48, 48, 48), vae=None) if missing.needs_received else None
    )
    config = training_config(batch_size=4, total_steps=steps, loss=LossConfig(missing=missing))
    trainer = training.Trainer(built, config, tf.distribute.get_strategy(), received=received)
    return {"step_s": step_seconds(trainer, steps=steps, leave_out=2)}


def main() -> None:
    from tests.benchmarks.side_by_side import Candidate, arguments, measure, table

    flags = arguments(__doc__)
    candidates = [
        Candidate(
            name,
            "tests.benchmarks.missing_labels:step",
            arguments={"treatment": treatment, "evidence": evidence},
        )
        for name, (treatment, evidence) in _CASES.items()
    ]
    print(
        table(
            measure(candidates, repetitions=flags.repetitions, warm_up=0),
            figure="step_s",
            reference="background",
        )
    )


if __name__ == "__main__":
    main()
