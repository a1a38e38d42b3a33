"""GPUs as TensorFlow and the driver would describe them.

A stand-in replaces tf.config, because most machines that run the tests have no GPU.
"""

import types

import pytest
import tensorflow as tf

from c2fnas import gpus

SMI = "NVIDIA H200, 143771, 580.159\nNVIDIA A2, 15356, 580.159\nno devices were found\n"


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs, and what was set on them in order."""
    cards = [types.SimpleNamespace(name=f"/physical_device:GPU:{n}") for n in range(2)]
    names, done = ["NVIDIA H200", "Unknown card"], []
    limits = {}

    def limit(gpu, parts):
        done.append((gpu.name[-1], parts[0].memory_limit))
        limits[gpu.name] = parts

    config = types.SimpleNamespace(
        list_physical_devices=lambda kind: cards if kind == "GPU" else [],
        list_logical_devices=lambda kind: cards if kind == "GPU" else [],
        set_logical_device_configuration=limit,
        get_logical_device_configuration=lambda gpu: limits.get(gpu.name),
        LogicalDeviceConfiguration=tf.config.LogicalDeviceConfiguration,
        threading=tf.config.threading,
        experimental=types.SimpleNamespace(
            set_memory_growth=lambda gpu, on: done.append((gpu.name[-1], on)),
            enable_tensor_float_32_execution=lambda on: done.append(("tf32", on)),
            get_device_details=lambda gpu: {
                "device_name": names[int(gpu.name[-1])],
                "compute_capability": (9, 0),
            },
        ),
    )
    monkeypatch.setattr(gpus.tf, "config", config)
    return done


def test_memory_grows_on_every_gpu_unless_a_limit_is_given(two_gpus):
    gpus.set_up()
    assert two_gpus == [("0", True), ("1", True), ("tf32", True)]
    assert gpus.memory_limit_mib() is None and gpus.is_used()
    two_gpus.clear()
    gpus.set_up(8000, tf32=False)
    # TensorFlow refuses a limit together with growth.
    assert two_gpus == [("0", 8000), ("1", 8000), ("tf32", False)]
    assert gpus.memory_limit_mib() == 8000


def test_gpus_that_are_in_use_already_are_an_error_with_a_remedy(two_gpus, monkeypatch):
    def in_use(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(gpus.tf.config.experimental, "set_memory_growth", in_use)
    with pytest.raises(RuntimeError, match=r"already uses /physical_device:GPU:0.*gpus\.set_up"):
        gpus.set_up()


def test_a_machine_without_a_gpu_takes_the_same_flags_and_says_so(monkeypatch):
    monkeypatch.setattr(gpus.tf.config, "list_physical_devices", lambda kind=None: [])
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    lines = []
    monkeypatch.setattr(gpus.logging, "info", lambda line, *values: lines.append(line % values))
    gpus.set_up(8000, tf32=not before)
    assert tf.config.experimental.tensor_float_32_execution_enabled() is before
    assert len(lines) == 1 and lines[0].startswith("event=gpu_memory_not_limited")
    gpus.set_up()
    assert len(lines) == 1
    assert gpus.found() == () and gpus.memory_limit_mib() is None
    assert gpus.described(1) == ["processor, 1 thread"]
    assert gpus.described(4) == ["processor, 4 threads"]


def test_gpus_are_described_by_what_tensorflow_and_the_driver_tell(two_gpus, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{SMI}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "version")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159  Release Build\n"
        "GCC version:  gcc version 12.2.0\n"
    )
    assert gpus.described() == [
        "NVIDIA H200 (140.4 GiB, compute capability 9.0, driver 580.159)",  # 143771 / 1024
        "Unknown card (compute capability 9.0, driver 580.159)",
    ]


@pytest.mark.parametrize("script", ["exit 9", "kill -9 $$", "echo", None])
def test_a_driver_that_tells_nothing_leaves_what_tensorflow_knows(
    two_gpus, monkeypatch, tmp_path, script
):
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "none")
    assert gpus.described()[0] == "NVIDIA H200 (compute capability 9.0)"


def test_the_drivers_table_by_hand():
    assert gpus.parse(SMI) == [
        gpus.Gpu("NVIDIA H200", 143771, driver="580.159"),
        gpus.Gpu("NVIDIA A2", 15356, driver="580.159"),
    ]
    assert gpus.parse("Card, with a comma, [N/A], 1.2\n") == [
        gpus.Gpu("Card, with a comma", None, driver="1.2")
    ]
    assert gpus.parse("") == []
    assert str(gpus.Gpu("Card")) == "Card"


def test_free_memory_is_what_the_limit_leaves_or_what_the_driver_says(two_gpus, monkeypatch):
    held = {"current": 3 * 2**20, "peak": 10 * 2**20}
    monkeypatch.setattr(
        gpus.tf.config.experimental, "get_memory_info", lambda _: held, raising=False
    )
    monkeypatch.setattr(gpus, "_asked", lambda *question: "5000\n400\n")
    assert gpus.free_bytes() == (400 + 10 - 3) * 2**20  # the fuller one, and what TensorFlow keeps
    monkeypatch.setattr(gpus, "_asked", lambda *question: "[N/A]\n")
    assert gpus.free_bytes() is None
    gpus.set_up(100)
    assert gpus.free_bytes() == 97 * 2**20
    monkeypatch.setattr(gpus, "is_used", lambda: False)
    assert gpus.free_bytes() is None
