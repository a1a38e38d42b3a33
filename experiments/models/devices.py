"""The devices a program computes on: this machine's, or those of all machines in TF_CONFIG."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import logging

from runkit import events

VARIABLE = "TF_CONFIG"


def strategy() -> Any:
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


def record(*, tf32: bool, deterministic: bool, xla: bool = False) -> dict[str, Any]:
    """Returns the record of a run's devices, as JSON values.

    Args:
      tf32, deterministic: as in `ExperimentConfig`.
      xla: whether XLA compiles the training step.
    Returns:
      `devices`: one text per GPU, or one for the processor; `tf32`: whether GPUs round to TF32,
      None without a GPU; `deterministic`; `xla`; and `same_bits`: whether another run with the same
      seed, devices, threads and software gives the same bits.
    """
    from c2fnas import gpus

    return {
        "devices": gpus.described(),
        "tf32": tf32 if gpus.is_used() else None,
        "deterministic": deterministic,
        "xla": xla,
        # Whether XLA chooses the same kernels again has not been measured.
        "same_bits": deterministic and not xla,
    }


def announce(found: dict[str, Any]) -> None:
    """Logs what `record` returned."""
    if found["same_bits"]:
        bits = "another run with the same seed, devices, threads and software gives the same bits"
    else:
        cause = "nodeterministic" if not found["deterministic"] else "xla"
        bits = f"another run with the same seed may give other bits (--{cause})"
    tf32 = "" if found["tf32"] is None else f" tf32={_on(found['tf32'])}"
    logging.info(
        'event=devices devices="%s"%s deterministic=%s xla=%s: %s',
        "; ".join(found["devices"]),
        tf32,
        _on(found["deterministic"]),
        _on(found["xla"]),
        bits,
    )


def of_training(folder: str | os.PathLike) -> list[str]:
    """Returns the devices on which the model in `folder` was trained, each text once.

    They are read from the events that a trainer wrote to `history.jsonl`. Earlier releases did not
    write this event.
    """
    history = events.EventLog(pathlib.Path(folder) / "history.jsonl").read()
    told = [event["devices"] for event in history if event["event"] == "devices"]
    return list(dict.fromkeys(text for texts in told for text in texts))


def _on(value: bool) -> str:
    return "on" if value else "off"


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


def single_machine(program: str) -> None:
    """Raises ValueError if TF_CONFIG is set: `program` works on a single machine only."""
    if VARIABLE in os.environ:
        raise ValueError(
            f"{program} runs on a single machine, but {VARIABLE} is set; unset it, or train with "
            "experiments.train_local"
        )
