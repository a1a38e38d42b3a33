"""Segments whole volumes with a network, and scores it on many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tensorflow as tf

from c2fnas import exhausted_memory, gpus, sample_loop, sliding_window, threads
from c2fnas.device_window import DeviceNetwork, mirrored_views
from c2fnas.scores import metrics
from c2fnas.sliding_window import LogitsFn, WindowConfig
from runkit.aligned import is_aligned
from runkit.classes import FOREGROUND

if TYPE_CHECKING:
    from c2fnas.network import Network


def logits_fn(network: Network, strategy: tf.distribute.Strategy | None = None) -> LogitsFn:
    """Returns the segmentation network as a compiled function of NumPy arrays.

    The function takes image float32 [n, x, y, z, 1] and returns logits float32
    [n, x, y, z, classes]. It is traced once per shape and always uses the network's current
    weights. It raises ValueError for a patch that does not fit the genotype, or if n is not a
    multiple of the replicas, and OutOfDeviceMemory if the windows do not fit the device.

    Args:
      network: built inside `strategy.scope()` if there is a strategy.
      strategy: shares the n patches equally among its replicas; None means one replica. Set the
        sliding window's `batch` to `parallel_windows` or a multiple of it. On a CPU, one replica
        computes several patches at the same time, each by itself. On a single GPU, the function
        also blends the windows there, see device_window.py.
    """

    def segmenter(image: tf.Tensor) -> tf.Tensor:
        return network.segmenter(image, training=False)

    replicas = _replicas(strategy)
    if strategy is None or replicas == 1:
        if gpus.is_used():
            return DeviceNetwork(network, tf.function(segmenter, autograph=False))
        compute = _on_one_device(segmenter)
    else:
        compute = _on_replicas(segmenter, strategy)

    def logits(image: np.ndarray) -> np.ndarray:
        network.genotype.check_size(image.shape[1:4])
        with exhausted_memory.explained(
            lambda: exhausted_memory.window_message(network, image.shape, replicas)
        ):
            return compute(image)

    return logits


def _on_one_device(segmenter: Callable[[tf.Tensor], tf.Tensor]) -> LogitsFn:
    at_once = threads.samples_at_once()

    @tf.function(autograph=False)
    def forward(image: tf.Tensor) -> tf.Tensor:
        return (
            segmenter(image)
            if 1 in (at_once, image.shape[0])
            else sample_loop.map_samples(segmenter, image, at_once=at_once)
        )

    return lambda image: np.asarray(forward(as_tensor(image)))  # unlike .numpy(), without a copy


def _on_replicas(
    segmenter: Callable[[tf.Tensor], tf.Tensor], strategy: tf.distribute.Strategy
) -> LogitsFn:
    replicas = strategy.num_replicas_in_sync

    @tf.function(autograph=False)
    def forward(shares: tf.Tensor) -> tf.Tensor:
        return strategy.run(segmenter, args=(shares,))

    def compute(image: np.ndarray) -> np.ndarray:
        if len(image) % replicas:
            raise ValueError(
                f"{len(image)} windows for {replicas} replicas; "
                f"set the sliding window's batch to a multiple of {replicas}"
            )
        parts = np.split(np.asarray(image, np.float32), replicas)
        shares = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )
        results = strategy.experimental_local_results(forward(shares))
        return np.concatenate([np.asarray(part) for part in results])

    return compute


def as_tensor(image: np.ndarray) -> tf.Tensor:
    """Returns the array as a tensor, without a copy if TensorFlow can read it in place.

    The array must not change before the result is computed.
    """
    if image.dtype == np.float32 and image.flags.writeable and is_aligned(image):
        return tf.experimental.dlpack.from_dlpack(image.__dlpack__())
    return tf.constant(image, tf.float32)


def parallel_windows(strategy: tf.distribute.Strategy | None) -> int:
    """Returns how many windows are computed at the same time.

    One per replica; with a single replica on a CPU, as many as `threads.samples_at_once` says.
    """
    return threads.samples_at_once() if _replicas(strategy) == 1 else _replicas(strategy)


def _replicas(strategy: tf.distribute.Strategy | None) -> int:
    # Several workers would wait for each other at every window, so each one infers on its own, on
    # its first device.
    if strategy is None or isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return strategy.num_replicas_in_sync


def with_flips(logits_fn: LogitsFn, axes: Sequence[int]) -> LogitsFn:
    """Returns test-time augmentation: the mean of the logits over all mirrored views.

    Each view's logits are mirrored back first.

    Args:
      logits_fn: float32 [n, x, y, z, 1] -> logits float32 [n, x, y, z, classes].
      axes: axes to mirror along, of 0 (x), 1 (y) and 2 (z); n axes cost 2**n calls of the network.
        Without any axis, `logits_fn` itself is returned.
    Raises:
      ValueError: for any other axis, or an axis given twice.
    """
    if len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
        raise ValueError(
            f"flips are {list(axes)}; expected different axes of 0 (x), 1 (y) and 2 (z)"
        )
    if isinstance(logits_fn, DeviceNetwork):
        return logits_fn.flipped(axes)
    views = mirrored_views(axes)

    def logits(image: np.ndarray) -> np.ndarray:
        total = np.array(logits_fn(np.ascontiguousarray(image)), np.float32)  # views[0]: unflipped
        for view in views[1:]:
            total += np.flip(logits_fn(np.ascontiguousarray(np.flip(image, view))), view)
        total *= np.float32(1.0 / len(views))
        return total

    return logits if axes else logits_fn


def segment(
    image: np.ndarray,
    logits_fn: LogitsFn,
    window: WindowConfig,
    *,
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> np.ndarray:
    """Returns the mask of a volume: for each voxel the class with the highest logit.

    Args:
      image: float [x, y, z] on the training grid, scaled to [-1, 1]; may be a memory map.
      logits_fn: the network, see `logits_fn`.
      window: settings of the sliding window.
      observe: called with each part of the mask and its logits when they are ready, e.g.
        `TumourScore.add`; it must not keep either array.
    Returns:
      uint8 [x, y, z].
    Raises:
      ValueError: as `sliding_window.slabs`.
    """
    mask = np.empty(image.shape, dtype=np.uint8)
    for x, slab in sliding_window.blended(image, logits_fn, window):
        part = mask[x : x + len(slab)]
        part[...] = slab.mask()
        if observe is not None:
            observe(part, slab.logits())
    return mask


class LabelledVolume(Protocol):
    """A case to validate on: image float [x, y, z] in [-1, 1], label integer [x, y, z]."""

    @property
    def image(self) -> np.ndarray: ...

    @property
    def label(self) -> np.ndarray: ...


def validate(
    cases: Iterable[LabelledVolume],
    logits_fn: LogitsFn,
    window: WindowConfig,
    *,
    class_names: Mapping[int, str] = FOREGROUND,
) -> dict[str, float]:
    """Segments whole volumes and returns their mean Dice.

    Args:
      cases: the volumes and their labels, on the training grid.
      logits_fn: the network, see `logits_fn`.
      window: settings of the sliding window.
      class_names: value of a class -> its name in the result.
    Returns:
      The result of `metrics.dice_summary`; its `dice` is the score by which a model is chosen.
    Raises:
      ValueError: as `segment` and `metrics.dice_summary`.
    """
    pairs = ((segment(case.image, logits_fn, window), np.asarray(case.label)) for case in cases)
    return metrics.dice_summary(pairs, class_names)
