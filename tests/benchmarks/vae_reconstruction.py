"""Measures how well the VAE branch reconstructs validation patches, beside a mean image.

    .venv/py3.11/bin/python -m tests.benchmarks.vae_reconstruction --run=runs/demo \\
        --models=initial.safetensors,sites/C2/baseline/best.safetensors
    .venv/py3.11/bin/python -m tests.benchmarks.vae_reconstruction --run=runs/seed1,runs/seed2 \\
        --models=server/global/round_040.safetensors --output=vae_reconstruction.json

It prints mean squared differences of intensities in [-1, 1], without latent noise. A branch that
has learned nothing at best predicts the mean image of the training patches. `explained` is the
share of the mean image's squared difference that the branch removes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runkit import atomic, markdown_tables
from tests.benchmarks import machine

_PATCHES = 64  # for the mean image, and as many for the scores


def judge(run: pathlib.Path, models: list[str]) -> list[dict[str, Any]]:
    import dataclasses

    import tensorflow as tf

    from c2fnas import named_weights
    from experiments import flags as experiment_flags
    from experiments.models import builders, prepared_cases

    config, _ = experiment_flags.parse_experiment([f"--flagfile={run / 'experiment.flags'}"])
    network = builders.build_network(config)
    found = []
    for folder in sorted(file.parent for file in run.glob("sites/*/cases")):
        store = prepared_cases.open_store(folder / "cases", config)

        def patches(split: str, store=store) -> np.ndarray:
            cases = [store.open(case) for case in store.case_ids(split)]
            sampler = builders.patch_sampler(
                dataclasses.replace(config, batch_size=_PATCHES, patches_per_case=_PATCHES), cases
            )
            return sampler.batch(0)["image"].astype(np.float32)

        mean_image, judged = patches("training").mean(axis=0), patches("validation")
        constant = float(np.mean(np.square(judged - mean_image.mean())))
        mean = float(np.mean(np.square(judged - mean_image)))
        own = float(np.mean(np.square(judged - judged.mean(axis=(1, 2, 3, 4), keepdims=True))))
        for model in models:
            named_weights.assign(network, named_weights.load(run / model)[0])
            parts = [
                network.train_outputs(tf.constant(judged[i : i + 4]))["reconstruction"].numpy()
                for i in range(0, len(judged), 4)
            ]
            error = float(np.mean(np.square(judged - np.concatenate(parts))))
            found.append(
                {
                    "site": folder.name,
                    "model": model,
                    "branch": error,
                    "mean_image": mean,
                    "constant": constant,
                    "patch_mean": own,
                    "explained": 1.0 - error / mean,
                }
            )
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table of the ranges over runs, for one model of each run."""
    sites = sorted({row["site"] for row in found})
    rows = []
    for text, key in (
        ("the branch of the global model", "branch"),
        ("the mean image", "mean_image"),
        ("the patch's own mean", "patch_mean"),
    ):
        cells = []
        for site in sites:
            values = [row[key] for row in found if row["site"] == site]
            low, high = f"{min(values):.2f}", f"{max(values):.2f}"
            cells.append(low if low == high else f"{low} to {high}")
        rows.append([text, *cells])
    head = ["reconstruction by", *(f"{site}#" for site in sites)]
    return "\n".join(markdown_tables.lines(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", required=True, help="folders of runs of Table 1, separated by commas"
    )
    parser.add_argument(
        "--models",
        required=True,
        help="weights files with a VAE branch, relative to the run, separated by commas",
    )
    parser.add_argument("--output", type=pathlib.Path, help="JSON file of the results")
    arguments = parser.parse_args()
    from experiments import flags as experiment_flags

    experiment_flags.define_experiment()
    found = []
    for run in map(pathlib.Path, arguments.run.split(",")):
        seed = json.loads((run / "table1.json").read_text(encoding="utf-8"))["seed"]
        for row in judge(run, arguments.models.split(",")):
            found.append({"seed": seed, **row})
            print(
                json.dumps(
                    {
                        name: round(value, 4) if isinstance(value, float) else value
                        for name, value in found[-1].items()
                    }
                ),
                flush=True,
            )
    if arguments.output is not None:
        atomic.write_json(arguments.output, {"machine": machine.describe(), "found": found})


if __name__ == "__main__":
    main()
