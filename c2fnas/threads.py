"""Threads, seeds and deterministic kernels: settings to make before TensorFlow computes."""

from __future__ import annotations

import tensorflow as tf

from c2fnas import gpus


def set_up(seed: int, threads: int, deterministic: bool = True, *, samples: int = 1) -> None:
    """Sets threads, seeds and deterministic kernels. Call it before TensorFlow computes anything.

    Args:
      seed: seed of Keras, NumPy and Python; nothing in this package depends on it.
      threads: number of threads that run operations. They are shared among the samples that are
        computed at the same time: each sample gets `threads // samples` threads per operation.
        Results depend on that number.
      deterministic: whether every process on this machine and stack computes the same bits.
      samples: how many samples there are to compute at the same time, e.g. the batch size; see
        `samples_at_once`.
    Raises:
      RuntimeError: if TensorFlow has already computed something with other threads; it cannot
        change them afterwards.
      ValueError: if `threads` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1")
    wanted = (threads // max(1, min(samples, threads)), threads)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(wanted[0])
        tf.config.threading.set_inter_op_parallelism_threads(wanted[1])
    except RuntimeError as error:
        if _threads() != wanted:
            raise RuntimeError(
                f"TensorFlow already computes with (intra, inter) threads {_threads()} "
                f"(0 is its own choice), and not with {wanted}; "
                "call set_up before anything else uses TensorFlow"
            ) from error
    tf.keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def samples_at_once() -> int:
    """Returns how many samples this process computes at the same time, each by itself.

    On a CPU, `set_up` determines this number. With a GPU, or without `set_up`, it is 1.
    """
    within, between = _threads()
    if not within or not between or gpus.is_used():
        return 1
    return between // within


def _threads() -> tuple[int, int]:
    """Returns the number of threads (within an operation, between operations); 0 means unset."""
    return (
        tf.config.threading.get_intra_op_parallelism_threads(),
        tf.config.threading.get_inter_op_parallelism_threads(),
    )
