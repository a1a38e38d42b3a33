"""One scan from file to file: CT in, mask on the scan's own grid out."""

from __future__ import annotations

import os

import numpy as np

from c2fnas import inference
from c2fnas.sliding_window import LogitsFn
from experiments import figures
from experiments.configuration import ExperimentConfig
from experiments.site_trainer import CLASS_NAMES, window_config
from preprocessing import geometry, intensity, nifti, resampling
from preprocessing.volume import Grid
from runkit import atomic


def predict_scan(
    image: str | os.PathLike,
    output: str | os.PathLike,
    logits_fn: LogitsFn,
    config: ExperimentConfig,
    *,
    overlay: str | os.PathLike | None = None,
) -> dict[str, float]:
    """Segments a scan and writes the mask with the scan's affine and header.

    Args:
      image: CT, NIfTI.
      output: mask to write, .nii.gz.
      logits_fn: the network, see c2fnas.inference.logits_fn.
      config: spacing, window and sliding window.
      overlay: picture to write, .png.
    Returns:
      Volume of each class in ml, on the scan's own grid.
    Raises:
      ValueError: naming the scan, where it cannot be read.
    """
    ct = nifti.read_ct(image)
    upright = geometry.to_ras(ct)
    scaled = intensity.window(resampling.resample_linear(upright.array, upright.spacing_mm, config.spacing_mm), *config.window_hu)
    mask = inference.segment(scaled, logits_fn, window_config(config))
    native = resampling.restore_labels(mask, Grid(ct.shape, ct.affine), config.spacing_mm)
    nifti.write_labels_like(output, native, image)
    if overlay is not None:
        with atomic.replacing(overlay) as path:
            figures.overlay(scaled, mask, config.spacing_mm).savefig(path)
    voxel_ml = abs(float(np.linalg.det(ct.affine[:3, :3]))) / 1000.0
    return {name: int(np.count_nonzero(native == value)) * voxel_ml for value, name in CLASS_NAMES.items()}
