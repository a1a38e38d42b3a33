"""One patch of a synthetic patient, for trying a profile's training step."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from experiments.configuration import ExperimentConfig
from preprocessing import geometry, intensity, resampling
from preprocessing.phantom import phantom
from preprocessing.phantom.config import CohortConfig


def phantom_patch(config: ExperimentConfig) -> tf.data.Dataset:
    """Returns a dataset of one patch from the middle of a synthetic scan, on the profile's grid."""
    ct, label = phantom.render_case(CohortConfig(site="C2", cases=1, seed=config.seed), 0)
    upright = geometry.to_ras(ct)
    image = intensity.window(
        resampling.resample_linear(upright.array, upright.spacing_mm, config.spacing_mm),
        *config.window_hu,
    )
    truth = resampling.resample_nearest(
        geometry.to_ras(label).array, upright.spacing_mm, config.spacing_mm
    )
    centre = np.round(np.argwhere(truth > 0).mean(axis=0)).astype(int)
    begin = [
        int(np.clip(c - size // 2, 0, n - size))
        for c, size, n in zip(centre, config.patch_size, truth.shape, strict=True)
    ]
    box = tuple(slice(b, b + size) for b, size in zip(begin, config.patch_size, strict=True))
    batch = {
        "image": image[box].astype(np.float16)[None, ..., None],
        "label": truth[box].astype(np.uint8)[None],
        "sample_seed": np.array([[config.seed, 0]], dtype=np.int32),
    }
    return tf.data.Dataset.from_tensors(batch)
