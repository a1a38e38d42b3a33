"""Trains on a single scan until the network reproduces its label: a test of the whole pipeline.

    python -m experiments.overfit --flagfile=experiments/flagfiles/demo.flags --image=ct.nii.gz \\
        --label=organs.nii.gz --label_values=7:1 --output=overfit

Try this first on a new kind of data: if the network cannot memorise one scan, something is wrong
with the data or the settings. Success says nothing about other scans. Writes the prediction on the
scan's own grid, an overlay picture and result.json.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from runkit.classes import FOREGROUND

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_orientation()
flags.DEFINE_string("image", None, "CT (.nii or .nii.gz).")
flags.DEFINE_string("label", None, "Label map of the CT.")
flags.DEFINE_list(
    "label_values",
    [],
    "value:class pairs for an organ map, e.g. 7:1; all remaining values count as background.",
)
flags.DEFINE_string("output", None, "Folder to write the result to.")
flags.DEFINE_float("until_dice", 0.8, "Stop once the mean Dice on the scan exceeds this.")
flags.DEFINE_integer(
    "max_steps",
    400,
    "Largest number of steps; the learning rate is annealed over them.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "score_every", 40, "Number of steps between two computations of the Dice.", lower_bound=1
)


def main(argv: list[str]) -> int:
    del argv
    from experiments.models import own_masks
    from preprocessing.case_list import Case, CaseManifest
    from preprocessing.preparation import pipeline
    from runkit import atomic, overwriting, release

    config = experiment_flags.experiment_config()
    output = pathlib.Path(experiment_flags.required("output", "the folder of the result"))
    image = pathlib.Path(experiment_flags.required("image", "the CT"))
    label = pathlib.Path(experiment_flags.required("label", "its label map"))
    orientation = experiment_flags.orientation()
    written = [
        output / name
        for name in ("prediction.nii.gz", "overlay.png", "model.safetensors", "result.json")
    ]
    overwriting.require_apart(
        {"--image": [image], "--label": [label]},
        {"--output": written},
        folders={"--output": [output / "cases"]},
    )
    mask, overlay = written[:2]
    own_masks.require_replaceable(mask, [overlay])
    listed = CaseManifest(
        "overfit",
        (Case("scan", image, label, orientation=orientation),),
        "one scan",
        label_values=experiment_flags.label_values(),
    )
    store = pipeline.prepare(
        listed,
        output / "cases",
        target_mm=config.spacing_mm,
        window_hu=config.window_hu,
        split_seed=config.seed,
        split_counts=(1, 0, 0),
        strict=False,  # a refused scan is an error all the same, as it is the only one
    )
    experiment_flags.start_tensorflow()
    from c2fnas import inference, named_weights
    from experiments.models import builders, scan_prediction, strategies
    from preprocessing import dataset

    case = store.open("scan")
    sampler = builders.patch_sampler(config, [case])
    trainer = builders.build_trainer(config, strategies.mirrored(), total_steps=FLAGS.max_steps)
    trainer.set_weights(named_weights.initial(trainer.network, config.seed))
    window = builders.window_config(config, trainer.strategy)
    score: dict[str, float] = {}
    while trainer.step < FLAGS.max_steps and score.get("dice", 0.0) <= FLAGS.until_dice:
        until = min(FLAGS.max_steps, trainer.step + FLAGS.score_every)
        trainer.train(
            lambda start, stop: dataset.training_dataset(sampler, start, stop),
            until,
            label="overfit",
        )
        score = inference.validate([case], trainer.logits_fn(), window)
        print(f"step {trainer.step}: Dice {score['dice']:.3f}", flush=True)
    named_weights.save(output / "model.safetensors", trainer.weights(), {"model": "overfit"})
    settings = scan_prediction.PredictionSettings(
        spacing_mm=config.spacing_mm, window_hu=config.window_hu, window=window
    )
    found = scan_prediction.predict_scan(
        image,
        mask,
        trainer.logits_fn(),
        settings,
        overlay=overlay,
        orientation=orientation,
    )
    if found.failed:
        raise ValueError("; ".join(found.failed))
    truth = {name: int(np.count_nonzero(case.label == value)) for value, name in FOREGROUND.items()}
    atomic.write_json(
        output / "result.json",
        {
            "dice": score["dice"],
            "steps": trainer.step,
            "predicted_ml": dict(found.volumes_ml),
            "truth_voxels": truth,
            "stack": release.stack(),
            "configuration": config.to_json(),
        },
    )
    print(f"{output}: Dice {score['dice']:.3f} after {trainer.step} steps")
    return 0 if score["dice"] > FLAGS.until_dice else 1


if __name__ == "__main__":
    program.run(main, required=["image", "label", "output"])
