"""Two PyTorch sites and a server, each a separate process, over TLS."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; only the examples need it")

from torch import nn  # noqa: E402

from examples import pytorch_federation as federation  # noqa: E402
from examples.pytorch_trainer import from_arrays, to_arrays  # noqa: E402
from federated.tensors import tensor_files  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(log, *arguments):
    with open(log, "wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "examples.pytorch_federation", *map(str, arguments)],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )


def wait(program, log, *, until=None, seconds=120):
    """Waits for a program's end, or for a file that it writes."""
    deadline = time.monotonic() + seconds
    while not (until and until.exists()):
        assert time.monotonic() < deadline, log.read_text()
        try:
            assert program.wait(0.05) == 0, log.read_text()
            return
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The server's folder after a run of three rounds."""
    folder = tmp_path_factory.mktemp("pytorch")
    kits, store, log = folder / "kits", folder / "store", folder / "server.log"
    wait(start(log, "provision", kits), log)
    programs = {log: start(log, "server", kits / "server", store, 0)}
    try:
        wait(programs[log], log, until=store / "address.json")
        port = json.loads((store / "address.json").read_text())["port"]
        for site in federation.SITES:
            log = folder / f"{site}.log"
            programs[log] = start(log, "site", kits / site, folder / site, port)
        for log, program in programs.items():
            wait(program, log)
    finally:
        for program in programs.values():
            program.kill()
            program.wait()
    return store


def test_the_global_models_are_the_weighted_means_of_what_the_sites_train(store):
    expected = to_arrays(federation.network())
    total = sum(federation.NUM_CASES.values())
    for number in range(1, federation.NUM_ROUNDS + 1):
        updates = {
            site: federation.trainer(site).train(expected, number)[0] for site in federation.SITES
        }
        expected = {
            name: (
                sum(
                    federation.NUM_CASES[site] * updates[site][name].astype(np.float64)
                    for site in sorted(updates)
                )
                / total
            ).astype(np.float32)
            for name in expected
        }
        arrays, _ = tensor_files.load(store / "global" / f"round_{number:03d}.safetensors")
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=f"{name}, round {number}")


def test_the_sites_learn_and_every_validation_case_has_a_row(store):
    rows = [json.loads(line) for line in (store / "rows.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["model"] == "FL_global"]
    assert sorted((row["site"], row["case"]) for row in last) == [
        (site, case) for site in ("C1", "C2") for case in (1, 2, 3)
    ]
    untrained = federation.trainer("C1").score(to_arrays(federation.network()))["dice"]
    assert np.mean([row["dice_ball"] for row in last]) > untrained + 0.2


def test_a_round_trained_again_gives_the_same_update():
    trainer, weights = federation.trainer("C1"), to_arrays(federation.network())
    first, _ = trainer.train(weights, 2)
    again, _ = trainer.train(weights, 2)
    other, _ = trainer.train(weights, 3)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_arrays_hold_every_float_and_no_counter_whatever_the_shape():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.register_buffer("wide", torch.zeros(3, dtype=torch.float64))

    network = Scaled()
    network.norm.num_batches_tracked += 7
    arrays = to_arrays(network)
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
        "norm.weight": ((2,), "float32"),
        "norm.bias": ((2,), "float32"),
        "norm.running_mean": ((2,), "float32"),
        "norm.running_var": ((2,), "float32"),
        "scale": ((), "float32"),
        "wide": ((3,), "float64"),
    }
    from_arrays(network, {name: array + 1 for name, array in arrays.items()})
    assert network.scale.item() == 3.0 and arrays["scale"] == 2.0
    assert network.norm.num_batches_tracked.item() == 7
