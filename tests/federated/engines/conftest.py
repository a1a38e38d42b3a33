import importlib
import importlib.metadata
import sys

import pytest

from federated.tensors import tensor_files
from tests.federated.engines import own_federation, seeded
from tests.federated.engines.processes import Processes


@pytest.fixture
def running(tmp_path):
    """Starts processes, and ends them after the test."""

    folders = []

    def begin(name):
        folder = tmp_path / name
        folder.mkdir()
        folders.append(Processes(folder))
        return folders[-1]

    yield begin
    for processes in folders:
        processes.stop()


@pytest.fixture
def check_globals(running, kits, tmp_path):
    """Compares a folder of global models with those of our own server and sites."""
    initial = seeded.write_initial(tmp_path / "own.safetensors")
    own = own_federation.lead(running("own"), kits, initial, num_rounds=3)

    def check(folder):
        for number in (1, 2, 3):
            name = f"round_{number:03d}.safetensors"
            arrays, metadata = tensor_files.load(folder / name)
            expected, own_metadata = tensor_files.load(own / name)
            assert metadata["plan"] == own_metadata["plan"]
            seeded.assert_same_bits(arrays, expected, f"round {number}")

    return check


@pytest.fixture
def without_engine(monkeypatch):
    """Imports a module that only needs an engine's names, even if the engine is not installed."""
    before = dict(sys.modules)

    def load(module, release):
        monkeypatch.setattr(importlib.metadata, "version", lambda package: release)
        return importlib.import_module(module)

    yield load
    for name in set(sys.modules) - set(before):
        if name.startswith(("federated.engines.flower", "federated.engines.nvflare")):
            del sys.modules[name]
