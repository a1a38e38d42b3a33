"""The record of the devices that a program computes on, for its log and with its results."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from absl import logging

from runkit import events


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
