"""Draws patches of a site's cases beside their reconstruction by the VAE branch.

The picture shows scans: it stays at the site.

    python -m experiments.reconstructions --flagfile=experiments/flagfiles/demo.flags
    --site_folder=sites/C1 \\
        --weights=sites/C1/baseline/best.safetensors --output=sites/C1/figures/reconstructions.png

The latent vector is the mean of its distribution, as in validation. A branch that draws grey fog
has learnt the mean scan and no more.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_site()
flags.DEFINE_string("weights", None, "Weights with their VAE branch (.safetensors).")
flags.DEFINE_string("output", None, "The picture to write (.png).")
flags.DEFINE_enum("split", "validation", ["training", "validation", "test"], "Which cases.")
flags.DEFINE_integer("patches", 4, "How many patches, of as many cases.")


def main(argv: list[str]) -> None:
    del argv
    import numpy as np

    from c2fnas import named_weights
    from experiments.models import prepared_cases, site_trainer
    from runkit import atomic, overwriting

    config = experiment_flags.experiment_config()
    folder = experiment_flags.site_folder()
    source = experiment_flags.required("weights", "the weights with their VAE branch")
    output = pathlib.Path(experiment_flags.required("output", "the picture to write"))
    inputs = {
        "--weights": [source],
        "--site_folder": [folder / "cases"],
        **experiment_flags.genotype_file(),
    }
    overwriting.require_apart(inputs, {"--output": [output]})
    store = prepared_cases.open_store(folder / "cases", config)
    weights, _ = named_weights.load(source)
    network = site_trainer.build_network(config)
    if network.vae is None:
        raise ValueError(
            "--vae is none: there is no branch to draw; give the settings the model was trained with"
        )
    named_weights.assign(network, weights)
    cases = [store.open(case_id) for case_id in store.case_ids(FLAGS.split)][: FLAGS.patches]
    if not cases:
        raise ValueError(f"site {store.site} has no {FLAGS.split} case; choose another --split")
    sampler = site_trainer.patch_sampler(config, cases)
    batch = sampler.batch(0)
    images = batch["image"][: FLAGS.patches].astype(np.float32)
    drawn = np.concatenate(
        [np.asarray(network.train_outputs(image[np.newaxis])["reconstruction"]) for image in images]
    )
    errors = np.square(drawn - images).mean(axis=(1, 2, 3, 4))
    with atomic.replacing(output) as path:
        figure(images[..., 0], drawn[..., 0], errors).savefig(path)
    print(
        f"{output}: {len(images)} patches, mean squared difference {errors.mean():.4f} (variance of the patches {images.var():.4f})"
    )


def figure(images, drawn, errors):
    """Returns a picture of the middle slice of each patch above its reconstruction; arrays [n, x,
    y, z] in [-1, 1].
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(2.4 * len(images), 5.2), layout="constrained", dpi=120)
    for column, (image, again, error) in enumerate(zip(images, drawn, errors, strict=True)):
        for row, (volume, title) in enumerate(
            ((image, f"patch {column + 1}"), (again, f"mean squared difference {error:.3f}"))
        ):
            axes = picture.add_subplot(2, len(images), row * len(images) + column + 1)
            axes.imshow(
                volume[:, :, volume.shape[2] // 2].T, cmap="gray", vmin=-1, vmax=1, origin="lower"
            )
            axes.set_title(title, fontsize=8)
            axes.set_axis_off()
    return picture


if __name__ == "__main__":
    experiment_flags.run(main, required=["site_folder", "weights", "output"], needs_tensorflow=True)
