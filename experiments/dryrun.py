"""Builds the full-size network, trains one step and federates one round.

    python -m experiments.dryrun --flagfile=experiments/flagfiles/paper.flags
    python -m experiments.dryrun --flagfile=experiments/flagfiles/paper.flags --supernet

Shows that the profile works at its real size, even on a machine that could not train it, and
estimates what training it needs. With --supernet it does the same for the supernet of a search
(experiments.search_operations): its shapes, weights and paths, one step along one path, and its
federated round.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import app, flags, logging

from experiments import configuration, program
from experiments import flags as experiment_flags
from federated.errors import FederationError
from runkit import process_memory

if TYPE_CHECKING:
    from c2fnas.genotype import Genotype
    from c2fnas.gpu_memory import MemoryEstimate
    from c2fnas.network import Network
    from c2fnas.search.supernet import Supernet

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
    config = experiment_flags.experiment_config(supernet=True)
    if FLAGS.devices < 1:
        raise app.UsageError(f"--devices is {FLAGS.devices}; expected at least 1")
    one = dataclasses.replace(config, batch_size=1, num_rounds=1, local_epochs=1)
    genotype = configuration.load_genotype(one)
    experiment_flags.start_tensorflow()
    from c2fnas.search.supernet import Supernet
    from experiments.models import builders, strategies
    from experiments.run import trial_patch, trial_round

    start = time.monotonic()
    trainer = builders.build_trainer(one, strategies.mirrored(), total_steps=1)
    network = trainer.network
    seconds = time.monotonic() - start
    print(
        _about_supernet(network, genotype, one.patch_size, seconds)
        if isinstance(network, Supernet)
        else _about_network(network, genotype, one.patch_size, seconds),
        flush=True,
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
    estimates = _memory(network, (1, per_device))
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


def _about_network(
    network: Network, genotype: Genotype, patch: Sequence[int], seconds: float
) -> str:
    """Describes the size of a network."""
    from c2fnas import vae_branch

    segmentation = genotype.macs(patch)
    total = sum(int(np.prod(v.shape)) for v in network.variables.values())
    weights, macs = vae_branch.cost(network)
    return (
        f"built: {genotype.conv_weights():,} convolution weights and {segmentation / 1e9:.1f} GMAC "
        f"per patch in the segmentation network; {total:,} weights with the VAE branch "
        f"({seconds:.0f} s)\n"
        f"VAE branch: {weights:,} weights and {macs / 1e9:.2f} GMAC per patch, "
        f"{macs / (macs + segmentation):.1%} of a training step's arithmetic and none of a "
        "prediction's"
    )


def _about_supernet(
    network: Supernet, genotype: Genotype, patch: Sequence[int], seconds: float
) -> str:
    """Describes the size of a supernet, after checking the shape of each kernel.

    Raises:
      ValueError: if a path's kernels are not those of its genotype.
    """
    from c2fnas.search import path_weights
    from c2fnas.search.cost import supernet_cost

    space = network.space
    for choice, op in enumerate(space.operations):
        gene = (choice,) * len(genotype.cells)
        found = path_weights.extract(space, gene, network.variables)
        for convolution in space.genotype(gene).convolutions():
            expected = (*convolution.kernel, convolution.channels_in, convolution.channels_out)
            shape = tuple(found[convolution.name].shape)
            if shape != expected:
                raise ValueError(
                    f"{convolution.name} of the path of {op} is {shape}; expected {expected}"
                )
    size = supernet_cost(space, patch)
    total = sum(int(np.prod(v.shape)) for v in network.variables.values())
    least, mean, most = (macs / 1e9 for macs in size.macs)
    return (
        f"built: a supernet of {space.size:,} paths with {size.weights:,} convolution weights; a "
        f"path has {size.path_weights[0]:,} to {size.path_weights[1]:,}, of the shapes of its "
        f"genotype; {total:,} weights with norms and VAE branch ({seconds:.0f} s)\n"
        f"a path: {least:.1f} to {most:.1f} GMAC per patch, {mean:.1f} on average; the genotype "
        f"that it was made from: {genotype.macs(patch) / 1e9:.1f}"
    )


def _memory(network: Network, batches: Sequence[int]) -> Mapping[int, MemoryEstimate]:
    """Returns batch -> the estimate for a step."""
    from c2fnas import gpu_memory
    from c2fnas.search import supernet_memory
    from c2fnas.search.supernet import Supernet

    if not isinstance(network, Supernet):
        return {batch: gpu_memory.training_step(network, batch) for batch in batches}
    one = supernet_memory.training_step(network, 1)  # builds a network; activations scale
    return {
        batch: dataclasses.replace(one, activations=batch * one.activations) for batch in batches
    }


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


if __name__ == "__main__":
    program.run(main, expected=(FederationError,))
