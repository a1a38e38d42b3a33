"""Builds the full-size network, trains one step and federates one round.

    python -m experiments.dryrun --flagfile=experiments/flagfiles/paper.flags

Shows that the profile works at its real size, even on a machine that could not train it, and
estimates what training it needs.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags, logging

from experiments import configuration
from experiments import flags as experiment_flags
from federated.errors import FederationError
from runkit import memory as process_memory

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
flags.DEFINE_integer(
    "devices",
    4,
    "Number of devices at a site, for the memory estimate at the profile's batch size.",
)


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import memory, vae_branch
    from experiments.models import devices, site_trainer
    from experiments.run import trial_patch, trial_round

    config = experiment_flags.experiment_config()
    if FLAGS.devices < 1:
        raise app.UsageError(f"--devices is {FLAGS.devices}; expected at least 1")
    one = dataclasses.replace(config, batch_size=1, num_rounds=1, local_epochs=1)
    start = time.monotonic()
    trainer = site_trainer.build_trainer(one, devices.mirrored(), total_steps=1)
    network = trainer.network
    genotype = site_trainer.load_genotype(one)
    segmentation = genotype.macs(one.patch_size)
    total = sum(int(np.prod(v.shape)) for v in network.variables.values())
    print(
        f"built: {genotype.conv_weights():,} convolution weights and {segmentation / 1e9:.1f} GMAC "
        f"per patch in the segmentation network; {total:,} weights with the VAE branch "
        f"({time.monotonic() - start:.0f} s)"
    )
    weights, macs = vae_branch.cost(network)
    print(
        f"VAE branch: {weights:,} weights and {macs / 1e9:.2f} GMAC per patch, "
        f"{macs / (macs + segmentation):.1%} of a training step's arithmetic and none of a "
        "prediction's"
    )
    before = trainer.weights()
    start = time.monotonic()
    parts = trainer.train(
        lambda first, last: trial_patch.phantom_patch(one), 1, label="one step, batch 1"
    )
    after = trainer.weights()
    shown = ", ".join(
        f"{name} {value:.4g}"
        for name, value in parts.items()
        if name not in ("learning_rate", "patches_per_second")
    )
    seconds = time.monotonic() - start
    print(f"one step, batch 1: {shown} ({seconds:.0f} s, building the graph included)")
    peak = process_memory.peak_bytes()
    per_device = -(-config.batch_size // FLAGS.devices)
    estimates = {batch: memory.training_step(network, batch) for batch in (1, per_device)}
    print(
        f"memory of a step, float32: estimated {_gib(estimates[1].total)} at batch 1 (the whole "
        f"process used {_gib(peak)} here); batch {config.batch_size} over {FLAGS.devices} devices "
        f"is {per_device} each: {_gib(estimates[per_device].total)} per device, "
        f"{_gib(1.25 * estimates[per_device].total)} with a quarter added for workspaces"
    )
    with tempfile.TemporaryDirectory() as folder:
        seconds, error = trial_round.federate(
            pathlib.Path(folder), before, after, configuration.plan(one, genotype.to_json())
        )
    logging.info("event=dry_run_round seconds=%.1f", seconds)
    size = sum(array.nbytes for array in before.values())
    print(
        f"one federated round of {size / 1e6:.0f} MB, two sites over mutual TLS: {seconds:.1f} s; "
        f"largest difference from the weighted mean {error:.2g}"
    )
    if error > 1e-6:
        raise ValueError(
            f"the aggregate differs from the weighted mean by {error:.3g}; expected at most 1e-6"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


if __name__ == "__main__":
    experiment_flags.run(main, needs_tensorflow=True, expected=(FederationError,))
