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
flags.DEFINE_string("overlay", None, "Picture to write (.png) of the slice with the most foreground.")


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import inference, metrics, named_weights
    from experiments import figures, site_trainer
    from preprocessing import geometry, intensity, nifti, resampling
    from runkit import atomic

    config = experiment_flags.experiment_config()
    image = experiment_flags.required("image", "the CT to segment")
    output = experiment_flags.required("output", "the mask to write")
    weights, _ = named_weights.load(experiment_flags.required("model", "the weights to segment with"))
    ct = nifti.read_ct(image)
    network = site_trainer.build_network(config)
    named_weights.assign(network, weights)
    upright = geometry.to_ras(ct)
    scaled = intensity.window(resampling.resample_linear(upright.array, upright.spacing_mm, config.spacing_mm), *config.window_hu)
    mask = inference.segment(scaled, inference.logits_fn(network), site_trainer.window_config(config))
    native = resampling.restore_labels(mask, geometry.Grid(ct.shape, ct.affine), config.spacing_mm)
    nifti.write_labels_like(output, native, image)
    volumes = metrics.volume_ml(mask, config.spacing_mm)
    print(f"{output}: " + ", ".join(f"{name} {volumes[value]:.1f} ml" for value, name in site_trainer.CLASS_NAMES.items()))
    if FLAGS.overlay:
        with atomic.replacing(FLAGS.overlay) as path:
            figures.overlay(scaled, mask, config.spacing_mm).savefig(path)


if __name__ == "__main__":
    experiment_flags.run(main, needs_tensorflow=True)
