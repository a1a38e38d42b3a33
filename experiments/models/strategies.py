"""The distribution strategy of a program: over this machine's devices, or those in TF_CONFIG."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

VARIABLE = "TF_CONFIG"


def from_environment() -> Any:
    """Returns a strategy over all devices. Call it before anything else uses TensorFlow.

    Without TF_CONFIG it is that of `mirrored`. With TF_CONFIG, all machines of the site run the
    same command at the same time on a shared site folder, each with its own number in TF_CONFIG.
    Worker 0 is the chief, and only the chief writes.

    Raises:
      ValueError: if TF_CONFIG does not have the form that TensorFlow documents.
    """
    import tensorflow as tf

    if VARIABLE not in os.environ:
        return mirrored()
    read_task()
    return tf.distribute.MultiWorkerMirroredStrategy()


def mirrored(names: Sequence[str] | None = None) -> Any:
    """Returns a `MirroredStrategy` over devices of this machine.

    Between several GPUs, NCCL sums the gradients, which is TensorFlow's default for them. NCCL
    cannot sum between parts of one GPU, and TensorFlow's ring between processors supports only one
    number of devices per process; in these cases one device sums for all.

    Args:
      names: e.g. ["GPU:0", "GPU:1"]; None takes all GPUs, or the processor if there is none.
    """
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    count = max(1, len(gpus)) if names is None else len(names)
    whole = len(gpus) == len(tf.config.list_physical_devices("GPU"))
    on_gpus = bool(gpus) if names is None else all("GPU" in name.upper() for name in names)
    summed_by_one = count > 1 and not (on_gpus and whole)
    return tf.distribute.MirroredStrategy(
        names,
        cross_device_ops=tf.distribute.ReductionToOneDevice() if summed_by_one else None,
    )


def is_chief() -> bool:
    """Returns whether this process writes files; among several machines only the chief does."""
    return VARIABLE not in os.environ or read_task() == ("worker", 0) or read_task()[0] == "chief"


def read_task() -> tuple[str, int]:
    """Returns (type, number) of this process; raises ValueError if TF_CONFIG is malformed."""
    try:
        config = json.loads(os.environ[VARIABLE])
        task, index, cluster = (
            config["task"]["type"],
            int(config["task"]["index"]),
            config["cluster"],
        )
        if task not in ("chief", "worker") or not 0 <= index < len(cluster[task]):
            raise ValueError(f"task {task} {index} is not in the cluster")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{VARIABLE} is {os.environ[VARIABLE]!r} ({error!r}); expected e.g. "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
            '"task": {"type": "worker", "index": 0}}'
        ) from error
    return task, index


def require_single_machine() -> None:
    """Raises ValueError if TF_CONFIG is set, for experiments.join, which runs on one machine."""
    if VARIABLE in os.environ:
        raise ValueError(
            f"experiments.join runs on a single machine, but {VARIABLE} is set; unset it, or train "
            "with experiments.train_local"
        )
