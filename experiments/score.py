"""Scores models on a site's own test cases, outside a federation, and writes one row per case.

    python -m experiments.score --flagfile=experiments/flagfiles/demo.flags \\
        --site_folder=sites/C1 --models=pooled:pooled/best.safetensors --output=rows.jsonl
"""

from __future__ import annotations

import json

from absl import flags

from experiments import flags as experiment_flags
from experiments import program

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_site()
flags.DEFINE_list("models", [], "Models to score, as name:file.")
flags.DEFINE_string("output", None, "File to write the rows to (JSON lines).")


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import named_weights
    from experiments.models import prepared_cases, strategies
    from runkit import atomic, overwriting

    config = experiment_flags.experiment_config()
    folder = experiment_flags.site_folder()
    output = experiment_flags.required("output", "the file to write the rows to")
    models = experiment_flags.named_files("models")
    inputs = {"--models": list(models.values()), "--site_folder": [folder / "cases"]}
    overwriting.require_apart(
        {**inputs, **experiment_flags.genotype_file()},
        {"--output": [output]},
        folders={"--site_folder": [folder / "scored"]},
    )
    store = prepared_cases.open_store(folder / "cases", config)
    experiment_flags.start_tensorflow()
    from experiments.models import site_trainer

    # `evaluate` also writes the masks for the site's figures, into this folder.
    site = site_trainer.SegmentationTrainer(
        config,
        store,
        folder / "scored",
        label=f"{store.site}_scores",
        strategy=strategies.mirrored(),
    )
    rows = []
    for name, file in models.items():
        rows += site.evaluate(name, named_weights.load(file)[0])
    atomic.write_text(output, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    print(f"{output}: {len(rows)} rows")


if __name__ == "__main__":
    program.run(main, required=["site_folder", "models", "output"])
