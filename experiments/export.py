"""Exports a model as a TensorFlow SavedModel, which runs without this package.

python -m experiments.export --model=models/FL_global --output=exported
"""

from __future__ import annotations

from absl import flags

from experiments import flags as experiment_flags
from experiments import program

FLAGS = flags.FLAGS
experiment_flags.define_runtime()
flags.DEFINE_integer("seed", 0, "Seed of Keras; an export draws no random numbers.")
flags.DEFINE_string("model", None, "Model folder.")
flags.DEFINE_string("output", None, "Folder to write the SavedModel to.")
flags.DEFINE_list(
    "window", [], "Size of the exported window in voxels x,y,z. Default: the plan's sliding window."
)


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import model_folder
    from runkit import overwriting

    folder = experiment_flags.required("model", "the folder of the model")
    output = experiment_flags.required("output", "the folder of the SavedModel")
    overwriting.require_apart({"--model": [folder]}, {}, folders={"--output": [output]})
    model = model_folder.load(folder)
    window = experiment_flags.numbers("window", int, 3) if FLAGS.window else None
    experiment_flags.start_tensorflow()
    from c2fnas import saved_model

    saved_model.export(model, output, window=window)
    print(
        f"{output}: signature {saved_model.SIGNATURE}, image float32 [1, x, y, z, 1] in [-1, 1] "
        "-> logits; the plan is in assets.extra"
    )


if __name__ == "__main__":
    program.run(main, required=["model", "output"])
