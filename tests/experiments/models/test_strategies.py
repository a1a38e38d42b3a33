import json
import os
import socket

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import checkpoints, named_weights, training
from experiments.models import strategies
from tests import forked
from tests.c2fnas import tiny
from tests.experiments.workers_program import STEPS


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _start_workers(folder, die_at=(-1, -1)):
    hosts = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        said = {"out": folder / f"worker{index}.json", "errors": folder / f"worker{index}.log"}
        processes.append(
            forked.start(
                "tests.experiments.workers_program",
                [folder, die_at[index]],
                environment=environment,
                **said,
            )
        )
    return processes


def test_two_machines_train_as_one_and_go_on_after_one_is_killed(tmp_path):
    """Machine 1 is killed after two of three steps.

    Both are started again and continue from the chief's last checkpoint.
    """
    chief, other = _start_workers(tmp_path, die_at=(-1, 2))
    try:
        assert other.wait(timeout=240) == -9, (tmp_path / "worker1.log").read_text()[-3000:]
    finally:
        for machine in (chief, other):
            # what supervises the machines does that: alone the chief waits for the other until
            # TensorFlow gives up
            machine.kill()
            machine.wait()
    assert (tmp_path / checkpoints.FILE_NAME).exists()
    assert not (tmp_path / "final_0.safetensors").exists()
    again = _start_workers(tmp_path)
    results = []
    for index, process in enumerate(again):
        assert process.wait(timeout=240) == 0, (tmp_path / f"worker{index}.log").read_text()[-3000:]
        results.append(json.loads((tmp_path / f"worker{index}.json").read_text().splitlines()[-1]))
    # Killed at the start of its third step, machine 1 may have caught the chief while it wrote the
    # second checkpoint.
    assert (
        results[0] == results[1] and results[0]["replicas"] == 2 and results[0]["first"] in (1, 2)
    )
    final = [named_weights.load(tmp_path / f"final_{index}.safetensors")[0] for index in range(2)]

    alone = training.Trainer(tiny.build(tiny.SHALLOW), tiny.config(), tf.distribute.get_strategy())
    loss = [alone.train(tiny.datasets, step + 1)["total"] for step in range(STEPS)][-1]
    assert results[0]["losses"][-1] == pytest.approx(loss, rel=1e-4)
    for name, array in alone.weights().items():
        np.testing.assert_array_equal(final[0][name], final[1][name])
        np.testing.assert_allclose(final[0][name], array, atol=2e-4, err_msg=name)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"task": {"type": "worker", "index": 2}, "cluster": {"worker": ["a:1", "b:1"]}}'],
)
def test_a_tf_config_that_is_none_is_refused_with_an_example(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"TF_CONFIG is .*expected e.g. \{"):
        strategies.from_environment()


def test_only_the_first_machine_writes(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert strategies.is_chief()
    for index, chief in ((0, True), (1, False)):
        monkeypatch.setenv(
            "TF_CONFIG",
            json.dumps(
                {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": index}}
            ),
        )
        assert strategies.is_chief() is chief
    with pytest.raises(ValueError, match="join runs on a single machine"):
        strategies.require_single_machine()


@pytest.mark.parametrize(
    ("physical", "logical", "names", "by_one"),
    [
        (0, 0, None, False),  # the processor alone
        (1, 1, None, False),
        (4, 4, None, False),  # NCCL
        (1, 2, None, True),  # two parts of one GPU
        (0, 0, ["CPU:0"], False),
        (0, 0, ["CPU:0", "CPU:1"], True),
        (2, 2, ["GPU:0", "GPU:1"], False),
        (2, 4, ["GPU:0", "GPU:1"], True),
    ],
)
def test_gradients_are_summed_by_nccl_or_on_one_device(
    monkeypatch, physical, logical, names, by_one
):
    made = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [None] * physical)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [None] * logical)
    monkeypatch.setattr(
        tf.distribute,
        "MirroredStrategy",
        lambda names, cross_device_ops: made.append((names, cross_device_ops)),
    )
    strategies.mirrored(names)
    ((given, reduction),) = made
    assert given == names
    assert isinstance(reduction, tf.distribute.ReductionToOneDevice) is by_one
    assert by_one or reduction is None
