"""Makes a model folder from a weights file and the flags it was trained with.

    python -m experiments.package --flagfile=experiments/flagfiles/paper.flags \\
        --weights=server/best.safetensors --name=FL_best_global --rows=server/rows.jsonl \\
        --output=models/FL_best_global

A model folder holds weights, genotype, plan and model card. It can be given to others, and
`experiments.predict` and `experiments.export` take it.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from experiments import flags as experiment_flags
from experiments import program

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
flags.DEFINE_string(
    "weights", None, "Weights (.safetensors) of a site's best model or of one of the server's."
)
flags.DEFINE_string("name", None, "Name of the model, as in the rows.")
flags.DEFINE_string("rows", None, "The server's rows.jsonl; the model's scores are taken from it.")
flags.DEFINE_list(
    "site_folder",
    [],
    "Folders of the sites that trained the model, if you have them. They add figures about the "
    "training data, e.g. the shortest field of view, which `predict` checks.",
)
flags.DEFINE_string(
    "private_arrays",
    None,
    "With --keep_at_site: folder of the site whose own arrays complete a global model. The server "
    "has only the initial model's values of these arrays, and no site evaluated a model with them.",
)
flags.DEFINE_string("output", None, "Model folder to write.")


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import model_folder, named_weights
    from experiments.models import model_folders, prepared_cases
    from experiments.results import table1_values
    from preprocessing import case_store
    from runkit import overwriting

    config = experiment_flags.experiment_config()
    output = experiment_flags.required("output", "the model folder to write")
    source = experiment_flags.required("weights", "the weights of the model")
    name = experiment_flags.required("name", "the model's name")
    cases = [pathlib.Path(folder) / "cases" for folder in FLAGS.site_folder]
    inputs = {
        "--weights": [source],
        "--rows": [FLAGS.rows] if FLAGS.rows else [],
        "--site_folder": cases,
    }
    overwriting.require_apart(
        {**inputs, **experiment_flags.genotype_file()}, {}, folders={"--output": [output]}
    )
    weights, metadata = named_weights.load(source)
    site, private_arrays_of = None, str(metadata.get("model", "the site that trained it"))
    if FLAGS.private_arrays:
        if not config.share_rules.keep:
            raise app.UsageError("--private_arrays is for models trained with --keep_at_site")
        site_folder = pathlib.Path(FLAGS.private_arrays)
        site = private_arrays_of = case_store.record_of(site_folder / "cases").site
        weights = model_folders.of_site(source, name, site_folder, config)
    elif config.share_rules.keep and "plan" in metadata:
        raise ValueError(
            f"{source} is a global model, which holds the arrays that the plan keeps at the sites "
            f"({', '.join(config.share_rules.keep)}) with the initial model's values; give a "
            "site's folder as --private_arrays to complete it"
        )
    stores = [prepared_cases.open_store(folder, config) for folder in cases]
    rows = table1_values.read_rows(FLAGS.rows, any_site=True) if FLAGS.rows else []
    model_folders.write(
        output,
        name,
        weights,
        config,
        stores=stores,
        rows=[row for row in rows if site in (None, row["site"])],
        private_arrays_of=private_arrays_of,
    )
    try:
        model_folder.load(output)
    except ValueError as error:
        raise ValueError(f"{error}. The weights were trained with other flags") from error
    print(f"{output}: {name}; read its model_card.md")


if __name__ == "__main__":
    program.run(main, required=["weights", "name", "output"])
