"""From a network to the mask of a whole volume, and to the score of many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from c2fnas import keras_stack, sample_loop, sliding_window, window_kernels
from c2fnas.scores import metrics
from c2fnas.sliding_window import LogitsFn, WindowConfig
from runkit.aligned import is_aligned

if TYPE_CHECKING:
    from c2fnas.network import Network


def logits_fn(network: Network, strategy: tf.distribute.Strategy | None = None) -> LogitsFn:
    """Returns a compiled function, float32 [n, x, y, z, 1] -> logits float32 [n, x, y, z, classes],
    NumPy in and out.

    It is traced once for every shape it meets and always uses the network's current weights.

    Args:
      network: built inside `strategy.scope()` where there is one.
      strategy: shares the n patches equally among its replicas. Give the sliding window a `batch`
        of `parallel_windows`, or a multiple. None is one replica. On a CPU a replica computes
        several patches at the same time, each by itself.
    Raises:
      ValueError: from the function, for a patch that does not fit the genotype, or an n that the
          replicas cannot share.
    """

    def segmenter(image):
        return network.segmenter(image, training=False)

    at_once = keras_stack.samples_at_once()

    @tf.function(autograph=False)
    def forward(image):
        return (
            segmenter(image)
            if 1 in (at_once, image.shape[0])
            else sample_loop.joined(segmenter, image, at_once=at_once)
        )

    replicas = _replicas(strategy)

    @tf.function(autograph=False)
    def forward_on_replicas(shares):
        return strategy.run(segmenter, args=(shares,))

    def logits(image: np.ndarray) -> np.ndarray:
        network.genotype.check_size(tuple(image.shape[1:4]))
        if replicas == 1:
            return np.asarray(forward(as_tensor(image)))  # not .numpy(), which copies
        if len(image) % replicas:
            raise ValueError(
                f"{len(image)} windows for {replicas} replicas; set the sliding window's batch to a multiple of {replicas}"
            )
        parts = np.split(np.asarray(image, np.float32), replicas)
        shares = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )
        return np.concatenate(
            [
                np.asarray(part)
                for part in strategy.experimental_local_results(forward_on_replicas(shares))
            ]
        )

    return logits


def as_tensor(image: np.ndarray) -> tf.Tensor:
    """Returns the array as a tensor, where it is if it can be read there. It must not change before
    the result is there.
    """
    if image.dtype == np.float32 and image.flags.writeable and is_aligned(image):
        return tf.experimental.dlpack.from_dlpack(image.__dlpack__())
    return tf.constant(image, tf.float32)


def parallel_windows(strategy: tf.distribute.Strategy | None) -> int:
    """Returns how many windows are computed at the same time: one a replica, on a CPU as many as
    there are threads for.
    """
    return keras_stack.samples_at_once() if _replicas(strategy) == 1 else _replicas(strategy)


def _replicas(strategy: tf.distribute.Strategy | None) -> int:
    # Over several workers each would wait for the others at every window, so each infers by itself
    # on its first device.
    if strategy is None or isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return strategy.num_replicas_in_sync


def with_flips(logits_fn: LogitsFn, axes: Sequence[int]) -> LogitsFn:
    """Returns test-time augmentation: the mean of the logits over all mirrored views, each mirrored
    back.

    Args:
      axes: of 0 (x), 1 (y), 2 (z), those to mirror along; n axes cost 2**n calls of the network.
          None of them gives `logits_fn`.
    Raises:
      ValueError: for an axis that is none of these, or twice the same.
    """
    if len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
        raise ValueError(
            f"flips are {list(axes)}; expected different axes of 0 (x), 1 (y) and 2 (z)"
        )
    views = [
        tuple(axis + 1 for axis in view)
        for count in range(len(axes) + 1)
        for view in itertools.combinations(sorted(axes), count)
    ]

    def logits(image: np.ndarray) -> np.ndarray:
        total = None
        for view in views:
            one = np.flip(logits_fn(np.ascontiguousarray(np.flip(image, view))), view)
            total = one.astype(np.float32) if total is None else np.add(total, one, out=total)
        return np.multiply(total, np.float32(1.0 / len(views)), out=total)

    return logits if axes else logits_fn


def segment(
    image: np.ndarray,
    logits_fn: LogitsFn,
    window: WindowConfig,
    *,
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> np.ndarray:
    """Returns the mask uint8 [x, y, z] of a volume on its own grid, each voxel the class with the
    highest logit.

    Args:
      image: float [x, y, z] on the training grid, scaled to [-1, 1]; may be a memory map.
      logits_fn: see `logits_fn`.
      window: of the sliding window.
      observe: called with each part of the mask and its logits as they are done, e.g.
          `TumourScore.add`; must keep neither.
    Raises:
      ValueError: as `sliding_window.slabs`.
    """
    mask = np.empty(image.shape, dtype=np.uint8)

    for x, logits in sliding_window.slabs(image, logits_fn, window):
        out = mask[x : x + len(logits)]
        sliding_window.in_parallel(
            lambda planes, logits=logits, out=out: window_kernels.likeliest(
                logits[planes], out[planes]
            ),
            len(logits),
        )
        if observe is not None:
            observe(out, logits)
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
      As `metrics.summary`: the mean over the classes that these cases have, each class, and the
          number of cases behind it.
    """
    pairs = ((segment(case.image, logits_fn, window), np.asarray(case.label)) for case in cases)
    return metrics.summary(pairs, class_names)
