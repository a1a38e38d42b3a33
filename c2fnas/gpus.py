"""The GPUs of a process: their memory, their arithmetic, and their description.

Without a GPU the functions do nothing, so that one flag file works on all machines.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

import tensorflow as tf
from absl import logging

_DRIVER = pathlib.Path("/proc/driver/nvidia/version")
_ASK = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_ASK_TIMEOUT_S = 10.0


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU as its driver describes it.

    Attributes:
      name: e.g. "NVIDIA H200".
      memory_mib: its memory; None if unknown.
      capability: compute capability, e.g. (9, 0); None if unknown.
      driver: version of the driver; "" if unknown.
    """

    name: str
    memory_mib: int | None = None
    capability: tuple[int, int] | None = None
    driver: str = ""

    def __str__(self) -> str:
        known = [
            "" if self.memory_mib is None else f"{self.memory_mib / 1024:.1f} GiB",
            ""
            if self.capability is None
            else f"compute capability {self.capability[0]}.{self.capability[1]}",
            f"driver {self.driver}" if self.driver else "",
        ]
        listed = ", ".join(text for text in known if text)
        return f"{self.name} ({listed})" if listed else self.name


def set_up(memory_mib: int = 0, tf32: bool = True) -> None:
    """Sets memory and arithmetic of all GPUs. Call it before TensorFlow computes anything.

    Args:
      memory_mib: the most memory that this process takes on each GPU. 0 sets no limit: the memory
        grows as needed, so that several programs can share a GPU. TensorFlow's own default is to
        take all memory of all GPUs at once.
      tf32: whether convolutions and matrix products of float32 round their inputs to 10 bits of
        mantissa (TF32), on GPUs that support it.
    Raises:
      RuntimeError: if TensorFlow already uses the GPUs with another setting.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        if memory_mib:
            logging.info(
                "event=gpu_memory_not_limited gpu_memory_mib=%d: TensorFlow finds no GPU here, and "
                "the limit does not apply to the processor",
                memory_mib,
            )
        return
    for gpu in gpus:
        try:
            if memory_mib:
                tf.config.set_logical_device_configuration(
                    gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=memory_mib)]
                )
            else:
                tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:
            raise RuntimeError(
                f"TensorFlow already uses {gpu.name}, so its memory can no longer be set "
                f"({error}); call gpus.set_up before anything else uses TensorFlow"
            ) from error
    tf.config.experimental.enable_tensor_float_32_execution(tf32)


def memory_limit_mib() -> int | None:
    """Returns the limit that `set_up` set, the same for each GPU; None without one."""
    limits = [
        one.memory_limit
        for gpu in tf.config.list_physical_devices("GPU")
        for one in tf.config.get_logical_device_configuration(gpu) or ()
        if one.memory_limit
    ]
    return int(min(limits)) if limits else None


def free_bytes() -> int | None:
    """Returns how much memory of the first GPU this process can still use; None if unknown.

    With a limit it is what the limit leaves. Without one it is what the driver says is free, and
    what TensorFlow holds and does not use at the moment.
    """
    if not is_used():
        return None
    held = tf.config.experimental.get_memory_info("GPU:0")
    limit = memory_limit_mib()
    if limit is not None:
        return limit * 2**20 - int(held["current"])
    free = _free_mib()
    return None if free is None else free * 2**20 + int(held["peak"]) - int(held["current"])


def is_used() -> bool:
    """Returns whether this process computes on a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def found() -> tuple[Gpu, ...]:
    """Returns this process's GPUs, without making TensorFlow use them.

    Name and compute capability come from TensorFlow. Memory and driver come from nvidia-smi, by the
    name, if it is installed; otherwise the driver is that of the loaded kernel module.
    """
    gpus = []
    told = _told_by_the_driver() if (physical := tf.config.list_physical_devices("GPU")) else []
    driver = _loaded_driver()
    for device in physical:
        details = tf.config.experimental.get_device_details(device)
        name = str(details.get("device_name", "GPU"))
        # By name, because CUDA_VISIBLE_DEVICES renumbers TensorFlow's GPUs but not nvidia-smi's.
        alike = {(one.memory_mib, one.driver) for one in told if one.name == name}
        memory, version = alike.pop() if len(alike) == 1 else (None, driver)
        gpus.append(Gpu(name, memory, details.get("compute_capability"), version))
    return tuple(gpus)


def described(threads: int | None = None) -> list[str]:
    """Returns one text per GPU; without a GPU, one for the processor.

    Args:
      threads: number of TensorFlow's threads; None takes the number that is set.
    """
    if threads is None:
        threads = tf.config.threading.get_inter_op_parallelism_threads() or os.cpu_count() or 1
    plural = "" if threads == 1 else "s"
    return [str(gpu) for gpu in found()] or [f"processor, {threads} thread{plural}"]


def _told_by_the_driver() -> list[Gpu]:
    return parse(_asked(*_ASK))


def _free_mib() -> int | None:
    """Returns the least free memory of any GPU, as the driver reports it; None if unknown.

    CUDA_VISIBLE_DEVICES renumbers TensorFlow's GPUs but not nvidia-smi's.
    """
    lines = _asked("--query-gpu=memory.free", "--format=csv,noheader,nounits").split()
    return min((int(line) for line in lines if line.isdecimal()), default=None)


def _asked(*question: str) -> str:
    """Returns what nvidia-smi answers; "" without it or after an error."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *question],
            capture_output=True,
            text=True,
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def parse(table: str) -> list[Gpu]:
    """Returns the GPUs in nvidia-smi's lines "name, MiB, driver"; other lines are left out."""
    rows: list[Sequence[str]] = [
        [cell.strip() for cell in line.rsplit(",", 2)] for line in table.splitlines()
    ]
    return [
        Gpu(row[0], int(row[1]) if row[1].isdecimal() else None, driver=row[2])
        for row in rows
        if len(row) == 3
    ]


def _loaded_driver() -> str:
    """Returns the version of the loaded NVIDIA kernel module; "" if there is none."""
    try:
        words = _DRIVER.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return ""
    return next((word for word in words if word[0].isdigit() and "." in word), "")
