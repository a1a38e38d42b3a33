"""A run's folder with only the files that membership inference reads: weights and cases."""

from __future__ import annotations

import functools
import json

import numpy as np

from c2fnas import named_weights
from experiments.models import builders
from federated.tensors import tensor_files
from preprocessing import nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from tests.experiments import study

ROUNDS = 4


def store(folder, site, numbers, counts):
    """Prepares small scans of a site; different numbers are different patients."""
    cases = []
    for number in numbers:
        image, label = (folder / "scans" / f"{kind}{number}.nii" for kind in ("image", "label"))
        for path, volume in zip((image, label), study.scan(site, number), strict=True):
            nifti.write_volume(path, volume)
        cases.append(Case(f"{site}_{number}", image, label))
    return pipeline.prepare(
        CaseManifest(site, tuple(cases)),
        folder / "cases",
        target_mm=(3.0, 3.0, 3.0),
        split_seed=1,
        split_counts=counts,
    )


def weights(config, seed):
    """Returns weights near the initial ones of a training."""
    initial, rng = _initial(config), np.random.default_rng(0)
    step = {name: rng.normal(0, 0.02, array.shape) for name, array in initial.items()}
    return {name: (a + seed * step[name]).astype(np.float32) for name, a in initial.items()}


@functools.cache
def _initial(config):
    return named_weights.read(builders.build_network(config))


def leave(folder, config, sites=("C1", "C2")):
    """Writes the models of a run of four rounds, whose last updates the server has kept."""
    for number in range(ROUNDS + 1):
        _save(folder / "server" / "global" / f"round_{number:03d}.safetensors", config, number)
    for place, site in enumerate(sites):
        kept = folder / "server" / "kept" / f"round_{ROUNDS:03d}"
        _save(kept / f"round_{ROUNDS:03d}.{site}.{'0' * 16}.safetensors", config, 10 + place)
        _save(folder / "sites" / site / "federated" / "best.safetensors", config, 20 + place)
        _save(folder / "sites" / site / "baseline" / "best.safetensors", config, 30 + place)


def _save(path, config, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensor_files.save(path, weights(config, seed), {"configuration": json.dumps({})})
