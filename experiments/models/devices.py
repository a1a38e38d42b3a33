"""The devices a program trains on: this machine's, or those of all machines in TF_CONFIG."""

from __future__ import annotations

import json
import os
from typing import Any

VARIABLE = "TF_CONFIG"


def strategy() -> Any:
    """Returns a strategy over all devices. Call it before anything else uses TensorFlow.

    Without TF_CONFIG it is a `MirroredStrategy`. With TF_CONFIG, all machines of the site run the
    same command at the same time on a shared site folder, each with its own number in TF_CONFIG.
    Worker 0 is the chief, and only the chief writes.

    Raises:
      ValueError: if TF_CONFIG does not have the form that TensorFlow documents.
    """
    import tensorflow as tf

    if VARIABLE not in os.environ:
        return tf.distribute.MirroredStrategy()
    read_task()
    return tf.distribute.MultiWorkerMirroredStrategy()


def is_chief() -> bool:
    """Returns whether this process writes files; of several machines only the chief does."""
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


def single_machine(program: str) -> None:
    """Raises ValueError if TF_CONFIG is set: `program` works on a single machine only."""
    if VARIABLE in os.environ:
        raise ValueError(
            f"{program} runs on a single machine, but {VARIABLE} is set; unset it, or train with "
            "experiments.train_local"
        )
