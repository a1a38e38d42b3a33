"""One clear error in place of TensorFlow's when a device has no memory left."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from c2fnas import gpu_memory, gpus
from c2fnas.gpu_memory import WORKSPACES

if TYPE_CHECKING:
    from c2fnas.network import Network

# Messages of cuDNN, cuBLAS and the driver when they find no memory for themselves. TensorFlow
# passes them on as errors of several kinds.
_LIBRARIES = re.compile(
    r"(cudnn|dnn library|cublas|cuda)\w*.*(initializ|alloc|not found|out.of.memory)",
    re.IGNORECASE | re.DOTALL,
)


class OutOfDeviceMemory(ValueError):
    """A device has no memory left for a training step or a window."""


@contextlib.contextmanager
def explained(explain: Callable[[], str]) -> Iterator[None]:
    """Turns TensorFlow's errors about exhausted memory into `OutOfDeviceMemory`.

    Other errors pass through unchanged.

    Args:
      explain: returns the message; called only for such an error.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not is_about_memory(error):
            raise
        raise OutOfDeviceMemory(explain()) from error


def is_about_memory(error: tf.errors.OpError) -> bool:
    """Returns whether TensorFlow, cuDNN, cuBLAS or the driver found no memory."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return True
    kinds = (
        tf.errors.InternalError,
        tf.errors.UnknownError,
        tf.errors.FailedPreconditionError,
        tf.errors.UnimplementedError,
        tf.errors.NotFoundError,
    )
    return isinstance(error, kinds) and bool(_LIBRARIES.search(error.message))


def training_message(network: Network, batch_size: int, replicas: int, step: int) -> str:
    """Returns the message for a training step that ran out of memory.

    Args:
      network: the trained network.
      batch_size: patches per step, over all replicas.
      replicas: number of devices.
      step: number of the step.
    """
    batch = batch_size // replicas
    available = available_bytes()
    needed = WORKSPACES * gpu_memory.training_step(network, batch).total
    patch = _voxels(network.patch_size)
    words = (
        f"step {step}: no memory is left on the device for {batch} "
        f"{'patch' if batch == 1 else 'patches'} of {patch} voxels (batch_size {batch_size} over "
        f"{replicas} {'device' if replicas == 1 else 'devices'}); it needs about "
        f"{_gib(needed)}{_of(available)}. "
    )
    if available is not None:
        fitting = gpu_memory.fitting_batch(network, batch, available)
        smaller = gpu_memory.fitting_patch(network, available)
        if fitting:
            words += f"By this estimate, batch_size {fitting * replicas} fits. "
        elif smaller is not None:
            words += f"By this estimate, batch_size {replicas} with patch_size "
            words += f"{','.join(map(str, smaller))} fits. "
        else:
            words += "By this estimate, no smaller batch or patch fits. "
    remedies = ["give a smaller batch_size or patch_size, which all sites of a federation share"]
    if network.precision == "float32" and gpus.is_used():
        remedies.append("use precision mixed_bfloat16 or mixed_float16")
    return words + _remedies([*remedies, "train on more devices"])


def window_message(network: Network, shape: Sequence[int], replicas: int) -> str:
    """Returns the message for windows that ran out of memory.

    Args:
      network: the network.
      shape: shape of the windows of one call, [n, x, y, z, 1].
      replicas: number of devices that share the n windows.
    """
    batch, size = -(-shape[0] // replicas), shape[1:4]
    available = available_bytes()
    needed = WORKSPACES * gpu_memory.window(network, size, batch)
    words = (
        f"no memory is left on the device for {batch} {'window' if batch == 1 else 'windows'} of "
        f"{_voxels(size)} voxels; they need about {_gib(needed)}{_of(available)}. "
    )
    if available is not None:
        smaller = gpu_memory.fitting_window(network, size, available)
        words += (
            "By this estimate, no smaller window fits. "
            if smaller is None
            else f"By this estimate, a window of {','.join(map(str, smaller))} fits. "
        )
    return words + _remedies(["give a smaller window (--window, or --inference_window)"])


def available_bytes() -> int | None:
    """Returns the GPU memory that this process may take or has taken; None without a GPU.

    Without a limit it is the peak of this process so far, because TensorFlow does not report how
    much others hold.
    """
    if not gpus.is_used():
        return None
    limit = gpus.memory_limit_mib()
    if limit is not None:
        return limit * 2**20
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def _of(available: int | None) -> str:
    if available is None:
        return ""
    if gpus.memory_limit_mib() is not None:
        return f", and gpu_memory_mib allows {_gib(available)}"
    return f", and this program had {_gib(available)}"


def _remedies(remedies: Sequence[str]) -> str:
    ending = ["end other programs on the GPU or raise gpu_memory_mib"] if gpus.is_used() else []
    listed = [*remedies, *ending]
    text = ", ".join(listed[:-1]) + f", or {listed[-1]}" if len(listed) > 1 else listed[0]
    return text[0].upper() + text[1:]


def _voxels(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
