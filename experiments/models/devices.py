"""Which devices a program trains on: this machine's, or those of all machines that TF_CONFIG names."""

from __future__ import annotations

import json
import os
from typing import Any

VARIABLE = "TF_CONFIG"


def strategy() -> Any:
    """Returns a strategy over all devices. Call it before anything else uses TensorFlow.

    Without TF_CONFIG that is `MirroredStrategy`. With it, every machine of the site runs the same
    command at the same time, each with its own number in TF_CONFIG, on one shared site folder;
    worker 0 is the chief, the only one that writes.

    Raises:
      ValueError: if TF_CONFIG is not what TensorFlow documents.
    """
    import tensorflow as tf

    if VARIABLE not in os.environ:
        return tf.distribute.MirroredStrategy()
    read_task()
    return tf.distribute.MultiWorkerMirroredStrategy()


def is_chief() -> bool:
    """Whether this process writes files: always, but on machines 1, 2, ... of several."""
    return VARIABLE not in os.environ or read_task() == ("worker", 0) or read_task()[0] == "chief"


def read_task() -> tuple[str, int]:
    """Returns (type, number) of this process from TF_CONFIG. Raises ValueError saying what is wrong
    with it.
    """
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
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    return task, index


def single_machine(program: str) -> None:
    """Raises ValueError where TF_CONFIG names several machines and `program` works on one only."""
    if VARIABLE in os.environ:
        raise ValueError(
            f"{program} runs on one machine, and {VARIABLE} is set; unset it, or train with experiments.train_local"
        )
