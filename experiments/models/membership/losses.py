"""Training losses of single scans under a model's weights, for membership inference.

A scan's loss is the mean over a few fixed patches of the training size, centred on foreground
voxels at even intervals in the list of all foreground voxels. Training used patches like these, at
random places, so they reveal what a model remembers of a scan. A patch without foreground has
almost no loss under any model, and a whole volume would take an order of magnitude longer. The
patches depend on the scan alone, so losses under different models can be subtracted.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from c2fnas import inference, losses, named_weights
from experiments.configuration import ExperimentConfig
from experiments.models.builders import build_network
from preprocessing.axes import three
from preprocessing.patches import PatchSource, cut
from runkit import progress

Weights = Mapping[str, np.ndarray]
_AIR = -1.0  # the value outside the volume, as in training


class MembershipLosses:
    """Losses and gradients of scans under any weights of one network.

    Args:
      config: the settings of the model's training; its VAE branch is left out.
      patches: number of patches per scan.
    """

    def __init__(self, config: ExperimentConfig, *, patches: int = 4):
        self._size, self._patches = config.patch_size, patches
        self._network = build_network(dataclasses.replace(config, vae="none"))
        self._logits = inference.logits_fn(self._network)
        self._gradient = tf.function(self._gradient_of, autograph=False)

    def of_scans(self, weights: Weights, scans: Sequence[PatchSource], *, what: str) -> np.ndarray:
        """Returns each scan's loss, float64 [scans]: soft Dice loss plus cross-entropy.

        Args:
          what: name in the progress bar.
        """
        named_weights.assign(self._network, named_weights.without_vae(weights))
        return np.array([self._loss(scan) for scan in progress.bar(scans, what=what, unit="scan")])

    def _loss(self, scan: PatchSource) -> float:
        images, labels = self._cut(scan)
        parts = losses.dice_and_cross_entropy(
            tf.convert_to_tensor(self._logits(images)), tf.convert_to_tensor(labels)
        )
        return float(sum(part.numpy().astype(np.float64).mean() for part in parts))

    def alignment(
        self, received: Weights, update: Weights, scans: Sequence[PatchSource], *, what: str
    ) -> np.ndarray:
        """Returns the cosine between each scan's descent direction and an update's change.

        Args:
          received: the global model that the site trained from, where the gradient is taken.
          update: the weights that the site sent.
        Returns:
          float64 [scans] in [-1, 1]; 0 for an update that changes nothing.
        """
        before, after = (named_weights.without_vae(of) for of in (received, update))
        named_weights.assign(self._network, before)
        change = [
            np.asarray(after[name], np.float64) - np.asarray(before[name], np.float64)
            for name in self._network.variables
        ]
        length = _norm(change)
        found = []
        for scan in progress.bar(scans, what=what, unit="scan"):
            images, labels = self._cut(scan)
            gradient = [part.numpy().astype(np.float64) for part in self._gradient(images, labels)]
            both = length * _norm(gradient)
            down = -sum(float(np.vdot(a, b)) for a, b in zip(gradient, change, strict=True))
            found.append(down / both if both else 0.0)
        return np.array(found)

    def _gradient_of(self, images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        variables = list(self._network.variables.values())
        with tf.GradientTape() as tape:
            logits = self._network.segmenter(images, training=False)
            parts = losses.dice_and_cross_entropy(logits, labels)
            loss = tf.add_n([tf.reduce_mean(part) for part in parts])
        return [
            tf.zeros_like(variable) if part is None else part
            for part, variable in zip(tape.gradient(loss, variables), variables, strict=True)
        ]

    def _cut(self, scan: PatchSource) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((self._patches, *self._size, 1), np.float32)
        labels = np.empty((self._patches, *self._size), np.uint8)
        for centre, image, label in zip(centres(scan, self._patches), images, labels, strict=True):
            cut(np.asarray(scan.image), centre, image[..., 0], fill=_AIR)
            cut(np.asarray(scan.label), centre, label, fill=0)
        return images, labels


def centres(scan: PatchSource, count: int) -> list[tuple[int, int, int]]:
    """Returns the centre voxels of a scan's patches.

    Raises:
      ValueError: if the scan has no foreground.
    """
    voxels = scan.runs.count()
    if not voxels:
        raise ValueError(
            f"case {scan.case_id}: its label is empty, so the attack has no patch of it to score; "
            "exclude it"
        )
    flat = [scan.runs.voxel((2 * number + 1) * voxels // (2 * count)) for number in range(count)]
    shape = tuple(scan.image.shape)
    return [three(int(i) for i in np.unravel_index(place, shape)) for place in flat]


def _norm(arrays: Sequence[np.ndarray]) -> float:
    return float(
        np.sqrt(functools.reduce(lambda total, a: total + float(np.vdot(a, a)), arrays, 0.0))
    )
