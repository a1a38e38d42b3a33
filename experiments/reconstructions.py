"""Draws patches of a site's cases and their reconstructions by the VAE branch.

    python -m experiments.reconstructions --flagfile=experiments/flagfiles/demo.flags \\
        --site_folder=sites/C1 --weights=sites/C1/baseline/best.safetensors \\
        --output=sites/C1/figures/reconstructions.png

As in validation, the latent vector is the mean of its distribution. If the reconstructions are
uniformly grey, the branch has learned no more than the mean scan. The picture shows scans, so keep
it at the site.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from preprocessing.splits import SPLITS

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_site()
flags.DEFINE_string("weights", None, "Weights that include the VAE branch (.safetensors).")
flags.DEFINE_string("output", None, "Picture to write (.png).")
flags.DEFINE_enum(
    "split",
    "validation",
    list(SPLITS),
    "Split from which the cases are taken.",
)
flags.DEFINE_integer("patches", 4, "Number of patches, each from another case.")


def main(argv: list[str]) -> None:
    del argv
    import numpy as np

    from c2fnas import named_weights
    from experiments import figures
    from experiments.models import prepared_cases
    from runkit import atomic, overwriting

    config = experiment_flags.experiment_config()
    folder = experiment_flags.site_folder()
    source = experiment_flags.required("weights", "weights that include the VAE branch")
    output = pathlib.Path(experiment_flags.required("output", "the picture to write"))
    inputs: overwriting.Named = {
        "--weights": [source],
        "--site_folder": [folder / "cases"],
        **experiment_flags.genotype_file(),
    }
    overwriting.require_apart(inputs, {"--output": [output]})
    store = prepared_cases.open_store(folder / "cases", config)
    weights, _ = named_weights.load(source)
    experiment_flags.start_tensorflow()
    from experiments.models import builders

    network = builders.build_network(config)
    if network.vae is None:
        raise ValueError(
            "--vae is 'none', so there is no branch to draw; give the settings that the model was "
            "trained with"
        )
    named_weights.assign(network, weights)
    cases = [store.open(case_id) for case_id in store.case_ids(FLAGS.split)][: FLAGS.patches]
    if not cases:
        raise ValueError(f"site {store.site} has no {FLAGS.split} case; choose another --split")
    sampler = builders.patch_sampler(config, cases)
    batch = sampler.batch(0)
    images = batch["image"][: FLAGS.patches].astype(np.float32)
    drawn = np.concatenate(
        [np.asarray(network.train_outputs(image[np.newaxis])["reconstruction"]) for image in images]
    )
    errors = np.square(drawn - images).mean(axis=(1, 2, 3, 4))
    with atomic.replacing(output) as path:
        figures.reconstruction_figure(images[..., 0], drawn[..., 0], errors).savefig(path)
    print(
        f"{output}: {len(images)} patches, mean squared error {errors.mean():.4f} (variance of the "
        f"patches {images.var():.4f})"
    )


if __name__ == "__main__":
    program.run(main, required=["site_folder", "weights", "output"])
