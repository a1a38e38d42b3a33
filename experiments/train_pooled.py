"""Trains one model on all sites' data together, as an upper bound for the federation.

    python -m experiments.train_pooled --flagfile=experiments/flagfiles/demo.flags \\
        --site_folders=sites/C1,sites/C2 --initial_model=initial.safetensors --output=pooled

This is possible only where all data may be in one place, as with synthetic or public cohorts.
Initial weights, number of epochs and frequency of validation are those of the other trainings.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

from experiments import flags as experiment_flags
from experiments import program

experiment_flags.define_experiment()
experiment_flags.define_runtime()
flags.DEFINE_list("site_folders", [], "Folders that experiments.prepare made, one per site.")
flags.DEFINE_string("initial_model", None, "Initial model, written by experiments.init_model.")
flags.DEFINE_string("output", None, "Folder to write the model to.")


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import named_weights
    from experiments.models import devices, prepared_cases, strategies
    from experiments.models.pooled_store import PooledStore
    from runkit import folder_lock, overwriting, private

    config = experiment_flags.experiment_config(supernet=True)
    output = pathlib.Path(experiment_flags.required("output", "the folder to write the model to"))
    initial = experiment_flags.required(
        "initial_model", "the initial model, written by experiments.init_model"
    )
    cases = experiment_flags.prepared_cases()
    inputs: overwriting.Named = {"--initial_model": [initial], "--site_folders": cases}
    overwriting.require_apart(
        {**inputs, **experiment_flags.genotype_file()}, {}, folders={"--output": [output]}
    )
    store = PooledStore([prepared_cases.open_store(path, config) for path in cases])
    weights, _ = named_weights.load(initial)
    folder_lock.hold(private.folder(output))
    experiment_flags.start_tensorflow()
    from experiments.models import supernet_site

    site = supernet_site.trainer_class(config)(
        config, store, output, label="pooled", strategy=strategies.mirrored()
    )
    devices.announce(site.devices)
    for round_number, metrics in site.train_alone(weights):
        logging.info(
            "model=pooled round=%d validation_dice=%s",
            round_number,
            metrics.get("validation_dice", "not this round"),
        )


if __name__ == "__main__":
    program.run(
        main,
        required=["site_folders", "initial_model", "output"],
        resumes=True,
    )
