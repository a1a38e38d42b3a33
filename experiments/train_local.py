"""Trains a baseline: one site alone, for as many epochs as the federation.

    python -m experiments.train_local --flagfile=experiments/flagfiles/demo.flags \\
        --site_folder=sites/C1 --initial_model=initial.safetensors

Stop it at any time; run the same command again to resume after the last finished epoch. The best
model is written to `<site_folder>/baseline/model`, a model folder for experiments.predict. With
--fine_tune the training starts from a finished model and goes to `<site_folder>/finetuned`. With
TF_CONFIG set, several machines of the site train together: see docs/training.md.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import app, flags, logging

from c2fnas.genotype import Genotype
from experiments import flags as experiment_flags
from experiments import program
from experiments.configuration import load_genotype

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_training()
experiment_flags.define_site()
flags.DEFINE_string(
    "initial_model",
    None,
    "Initial model, written by experiments.init_model. Not needed with --fine_tune.",
)
flags.DEFINE_string(
    "model_folder",
    None,
    "Name of the model's folder inside --site_folder. Default: baseline, or finetuned with "
    "--fine_tune.",
)
flags.DEFINE_string(
    "model_name",
    None,
    "Name of the model in logs and tables. Default: <site>_baseline, or <site>_finetuned.",
)
flags.DEFINE_string(
    "fine_tune",
    None,
    "Start from this finished model (a model folder or a .safetensors file) instead of "
    "--initial_model. Use a lower --learning_rate and fewer --num_rounds than for a full training.",
)
flags.DEFINE_bool(
    "freeze_encoder",
    False,
    "With --fine_tune: freeze the weights of stem and encoder, and train only the decoder and the "
    "VAE branch. Useful with few cases.",
)


def main(argv: list[str]) -> None:
    del argv
    from experiments.models import devices, model_folders, prepared_cases, strategies
    from runkit import folder_lock, overwriting, private

    config = experiment_flags.experiment_config()
    folder = experiment_flags.site_folder()
    kind = "baseline" if FLAGS.fine_tune is None else "finetuned"
    model_folder = folder / (FLAGS.model_folder or kind)
    start = {
        "--fine_tune": [FLAGS.fine_tune] if FLAGS.fine_tune else [],
        "--initial_model": [FLAGS.initial_model] if FLAGS.initial_model else [],
    }
    inputs = {**start, "--site_folder": [folder / "cases"], **experiment_flags.genotype_file()}
    overwriting.require_apart(inputs, {}, folders={"--model_folder": [model_folder]})
    store = prepared_cases.open_store(folder / "cases", config)
    weights = _start(load_genotype(config))
    profiled = experiment_flags.profile_steps()
    label = FLAGS.model_name or f"{store.site}_{kind}"
    folder_lock.hold(folder / "cases", shared=True)
    if strategies.is_chief():  # of several machines that train together, only the chief writes
        folder_lock.hold(private.folder(model_folder))
    experiment_flags.start_tensorflow()
    # Before anything else uses TensorFlow: several machines must find each other first.
    strategy = strategies.from_environment()
    from experiments.models import site_trainer

    site = site_trainer.SegmentationTrainer(
        config,
        store,
        model_folder,
        label=label,
        strategy=strategy,
        freeze_encoder=FLAGS.freeze_encoder,
        profile_steps=profiled,
        xla=FLAGS.xla,
        writes=strategies.is_chief(),
    )
    logging.info(
        "site=%s replicas=%d training_cases=%d rounds=%d",
        store.site,
        strategy.num_replicas_in_sync,
        site.num_examples,
        config.num_rounds,
    )
    devices.announce(site.devices)
    for round_number, metrics in site.train_alone(weights):
        logging.info(
            "site=%s round=%d validation_dice=%s data_wait_share=%.3f",
            store.site,
            round_number,
            metrics.get("validation_dice", "not this round"),
            metrics["data_wait_share"],
        )
    if strategies.is_chief():
        model_folders.write_best(model_folder / "model", label, site, config, store)


def _start(genotype: Genotype) -> dict[str, np.ndarray]:
    """Returns the weights to start from."""
    from c2fnas import checkpoints, model_folder, named_weights

    if FLAGS.fine_tune is None:
        if FLAGS.freeze_encoder:
            raise app.UsageError(
                "--freeze_encoder is for a trained encoder; give its model as --fine_tune"
            )
        initial = experiment_flags.required(
            "initial_model", "the initial model, written by experiments.init_model"
        )
        return named_weights.load(initial)[0]
    source = pathlib.Path(FLAGS.fine_tune)
    if not source.is_dir():
        return named_weights.load(source)[0]
    model = model_folder.load(source)
    differences = checkpoints.differences(
        model.genotype.to_json(), genotype.to_json(), "genotype", there="the model"
    )
    if differences:
        raise ValueError(
            f"{source} cannot be fine-tuned with these settings: {'; '.join(differences)}. Use the "
            "settings it was trained with"
        )
    return dict(model.weights)


if __name__ == "__main__":
    program.run(main, required=["site_folder", "initial_model"], resumes=True)
