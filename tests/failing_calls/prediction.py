"""`predict` whose system calls fail. Its network is a stand-in of two thresholds."""

from __future__ import annotations

import pathlib

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import numpy as np

from experiments.models import scan_prediction  # noqa: F401 - imported once, before the processes
from experiments.reports import prediction_table  # noqa: F401
from preprocessing import nifti
from preprocessing.volume import Volume
from tests.failing_calls import interception
from tests.failing_calls.commands import Command, Contents, files
from tests.preprocessing.preparation.test_pipeline import AFFINE, scan


def prediction(folder: pathlib.Path) -> Command:
    inputs, output = folder / "inputs", folder / "masks"
    (inputs / "scans").mkdir(parents=True)
    for number in range(2):
        hu, _ = scan(number)
        nifti.write_volume(inputs / "scans" / f"{number}.nii.gz", Volume(hu, AFFINE))
    made = interception.run(
        lambda: _save_model(inputs / "model"), folder / "model.log", seconds=300
    )
    if made.code:
        raise AssertionError(made.output)
    return Command(
        "predict",
        "experiments.predict",
        inputs,
        output,
        [
            f"--model={inputs / 'model'}",
            f"--image={inputs / 'scans'}",
            f"--output={output}",
            "--overlay",
            "--probabilities",
            "--threads=1",
        ],
        kept=lambda made: {
            name: content for name, content in files(made).items() if name != "volumes.csv"
        },
        confirmed=_confirmed,
        before=_without_network,
    )


def _confirmed(said: str, found: Contents, expected: Contents) -> list[str]:
    """A mask whose volumes were printed must exist and be complete."""
    told = [name for name in expected if f"{name}: pancreas" in said]
    return [f"the mask {name} is not there" for name in told if found.get(name) != expected[name]]


def _save_model(folder: pathlib.Path) -> int:
    from tests.c2fnas import tiny

    tiny.save_model(folder)
    return 0


def _without_network() -> None:
    from c2fnas import inference, model_folder

    model_folder.build_segmenter = lambda model: None
    inference.logits_fn = lambda network, strategy: _thresholds


def _thresholds(patches) -> np.ndarray:
    """Three logits per voxel: pancreas above 25 HU, tumour above 160."""
    patches = np.asarray(patches)
    return np.concatenate([np.zeros_like(patches), 4 * patches, 8 * patches - 2.4], axis=-1)
