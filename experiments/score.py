"""Scores models on a site's own test cases, outside a federation, and writes per-case rows.

    python -m experiments.score --flagfile=experiments/flagfiles/demo.flags --site_folder=sites/C1
    \\
        --models=pooled:pooled/best.safetensors --output=rows.jsonl
"""

from __future__ import annotations

import json
import pathlib

from absl import app, flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_site()
flags.DEFINE_list("models", [], "name:file of the models to score.")
flags.DEFINE_string("output", None, "JSON-lines file of rows to write.")


def main(argv: list[str]) -> None:
    del argv
    import tensorflow as tf

    from c2fnas import named_weights
    from experiments.models import prepared_cases, site_trainer
    from runkit import atomic, overwriting

    config = experiment_flags.experiment_config()
    folder = experiment_flags.site_folder()
    output = experiment_flags.required("output", "the file of rows to write")
    models = [_model(entry) for entry in FLAGS.models]
    inputs = {"--models": [file for _, file in models], "--site_folder": [folder / "cases"]}
    overwriting.require_apart(
        {**inputs, **experiment_flags.genotype_file()},
        {"--output": [output]},
        folders={"--site_folder": [folder / "scored"]},
    )
    store = prepared_cases.open_store(folder / "cases", config)
    # masks for the site's own figures go where the federation's are
    site = site_trainer.SegmentationTrainer(
        config,
        store,
        folder / "scored",
        label=f"{store.site}_scores",
        strategy=tf.distribute.MirroredStrategy(),
    )
    rows = []
    for name, file in models:
        rows += site.evaluate(name, named_weights.load(file)[0])
    atomic.write_text(output, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    print(f"{output}: {len(rows)} rows")


def _model(entry: str) -> tuple[str, pathlib.Path]:
    name, separator, file = entry.partition(":")
    if not separator or not pathlib.Path(file).is_file():
        raise app.UsageError(f"--models has {entry!r}; expected name:file with an existing file")
    return name, pathlib.Path(file)


if __name__ == "__main__":
    experiment_flags.run(main, required=["site_folder", "models", "output"], needs_tensorflow=True)
