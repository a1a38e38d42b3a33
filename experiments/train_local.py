"""Trains a baseline: one site alone, with the federation's number of epochs and the same validation cadence.

    python -m experiments.train_local --flagfile=experiments/flagfiles/demo.flags --site_folder=sites/C1 --initial_model=initial.safetensors

Started again after an interruption it goes on at the last finished epoch; finished, it ends at once. The best model is left as
`<site_folder>/baseline/model`, which experiments.predict takes.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_site()
flags.DEFINE_string("initial_model", None, "Initial weights, written by experiments.init_model; another site's model to fine-tune it here.")
flags.DEFINE_string("model_folder", "baseline", "Folder of the model inside the site's.")
flags.DEFINE_string("model_name", None, "Name of the model in logs and tables. Default: <site>_baseline.")


def main(argv: list[str]) -> None:
    del argv
    import tensorflow as tf

    from c2fnas import named_weights
    from experiments import model_writing, site_trainer
    from preprocessing.case_store import CaseStore

    config = experiment_flags.experiment_config()
    folder = pathlib.Path(experiment_flags.required("site_folder", "the folder that experiments.prepare made"))
    weights, _ = named_weights.load(experiment_flags.required("initial_model", "the weights to start from"))
    store = CaseStore(folder / "cases")
    strategy = tf.distribute.MirroredStrategy()
    label = FLAGS.model_name or f"{store.site}_baseline"
    site = site_trainer.SiteTrainer(config, store, folder / FLAGS.model_folder, label=label, strategy=strategy)
    logging.info(
        "site=%s replicas=%d training_cases=%d rounds=%d", store.site, strategy.num_replicas_in_sync, site.num_examples, config.num_rounds
    )
    for round_number, metrics in site.train_alone(weights):
        logging.info("site=%s round=%d validation_dice=%.4f", store.site, round_number, metrics["validation_dice"])
    model_writing.write_best(folder / FLAGS.model_folder / "model", label, site, config, store)


if __name__ == "__main__":
    experiment_flags.run(main, needs_tensorflow=True)
