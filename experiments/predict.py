"""Segments one scan: NIfTI in, mask on the scan's own grid out, with an overlay to look at.

python -m experiments.predict --flagfile=experiments/flagfiles/demo.flags --model=best.safetensors --image=scan.nii.gz --output=mask.nii.gz
"""

from __future__ import annotations

from absl import flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
flags.DEFINE_string("model", None, "Weights (.safetensors) of the flags' network.")
flags.DEFINE_string("image", None, "CT to segment (.nii or .nii.gz).")
flags.DEFINE_string("output", None, "Mask to write (.nii.gz), on the CT's own grid with its header.")
flags.DEFINE_string("overlay", None, "Picture to write (.png): axial and coronal slices with the mask.")


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import inference, named_weights
    from experiments import scan_prediction, site_trainer

    config = experiment_flags.experiment_config()
    image = experiment_flags.required("image", "the CT to segment")
    output = experiment_flags.required("output", "the mask to write")
    weights, _ = named_weights.load(experiment_flags.required("model", "the weights to segment with"))
    network = site_trainer.build_network(config)
    named_weights.assign(network, weights)
    volumes = scan_prediction.predict_scan(image, output, inference.logits_fn(network), config, overlay=FLAGS.overlay)
    print(f"{output}: " + ", ".join(f"{name} {volume:.1f} ml" for name, volume in volumes.items()))


if __name__ == "__main__":
    experiment_flags.run(main, needs_tensorflow=True)
