"""From a network to the mask of a whole volume, and to the score of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from c2fnas import metrics, sliding_window
from c2fnas.sliding_window import LogitsFn, WindowConfig

if TYPE_CHECKING:
    from c2fnas.network import Network


def logits_fn(network: Network) -> LogitsFn:
    """Returns a compiled function, float32 [n, x, y, z, 1] -> logits float32 [n, x, y, z, classes], NumPy in and out.

    It is traced once for every shape it meets and always uses the network's current weights.
    """

    @tf.function(autograph=False)
    def forward(image):
        return network.segmenter(image, training=False)

    def logits(image: np.ndarray) -> np.ndarray:
        network.genotype.check_size(tuple(image.shape[1:4]))
        return forward(tf.constant(image, tf.float32)).numpy()

    return logits


def segment(image: np.ndarray, logits_fn: LogitsFn, window: WindowConfig) -> np.ndarray:
    """Returns the mask uint8 [x, y, z] of a volume on its own grid, each voxel the class with the highest logit.

    Args:
      image: float [x, y, z] on the training grid, scaled to [-1, 1]; may be a memory map.
      logits_fn: see `logits_fn`.
      window: of the sliding window.
    Raises:
      ValueError: as `sliding_window.slabs`.
    """
    mask = np.empty(image.shape, dtype=np.uint8)
    for x, logits in sliding_window.slabs(image, logits_fn, window):
        mask[x : x + len(logits)] = logits.argmax(axis=-1)
    return mask


def validate(
    cases: Iterable[Any],
    logits_fn: LogitsFn,
    window: WindowConfig,
    *,
    class_names: Mapping[int, str] = metrics.CLASS_NAMES,
) -> dict[str, float]:
    """Segments whole volumes and returns their mean Dice; `dice` is the score that chooses a model.

    Args:
      cases: objects with `image` float [x, y, z] in [-1, 1] and `label` integer [x, y, z].
    Returns:
      As `metrics.summary`: the mean over the classes that these cases have, each class, and the number of cases behind it.
    """
    pairs = ((segment(case.image, logits_fn, window), np.asarray(case.label)) for case in cases)
    return metrics.summary(pairs, class_names)
