"""A federation of PyTorch sites on balls in noise.

    python -m examples.pytorch_federation provision kits
    python -m examples.pytorch_federation server kits/server store
    python -m examples.pytorch_federation site kits/C1 journals/C1
    python -m examples.pytorch_federation site kits/C2 journals/C2

Run each command in its own terminal, `provision` first, then the server. `provision` also writes
the initial model, kits/initial.safetensors. If port 8443 is in use, give server and sites another
port as the last argument.
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import torch
from torch import nn

from examples import pytorch_trainer
from examples.pytorch_trainer import Cases, PyTorchTrainer
from federated import ServerConfig, connect, provision, run_site, serve
from federated.tensors import tensor_files

SITES = {"C1": 3.0, "C2": 5.0}  # name -> brightness of a ball; the noise has a deviation of 1
NUM_CASES = {"C1": 6, "C2": 4}  # training cases
NUM_ROUNDS = 3
_SIZE = 12  # voxels along an edge of a scan


def network() -> nn.Module:
    """Returns the network with the initial weights, from which all sites start."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 1, 3, padding=1)
    )


def cases(site: str, count: int, *, seed: int) -> Cases:
    """Returns scans and labels of balls of different sizes at random positions."""
    random = np.random.default_rng([seed, *site.encode()])
    grid = np.stack(np.meshgrid(*[np.arange(_SIZE)] * 3, indexing="ij"))
    scans, labels = [], []
    for _ in range(count):
        centre = random.uniform(4, _SIZE - 4, (3, 1, 1, 1))
        ball = ((grid - centre) ** 2).sum(0) <= random.uniform(3, 4) ** 2
        scans.append(random.normal(size=ball.shape) + SITES[site] * ball)
        labels.append(ball)
    stacked = (np.stack(part)[:, None] for part in (scans, labels))
    return tuple(torch.tensor(part, dtype=torch.float32) for part in stacked)


def trainer(site: str) -> PyTorchTrainer:
    """Returns the trainer of a site, with the site's own cases."""
    return PyTorchTrainer(
        site, network(), cases(site, NUM_CASES[site], seed=1), cases(site, 3, seed=2)
    )


def main(role: str, kit: str, folder: str = "", port: str = "") -> None:
    torch.set_num_threads(1)  # so that a rerun gives the same bits
    if role == "provision":
        provision(kit, "localhost", tuple(SITES))
        about = {"plan": json.dumps(pytorch_trainer.PLAN)}
        initial = pathlib.Path(kit) / "initial.safetensors"
        tensor_files.save(initial, pytorch_trainer.to_arrays(network()), about)
    elif role == "server":
        config = ServerConfig(num_rounds=NUM_ROUNDS, port=int(port or 8443), host="localhost")
        initial = pathlib.Path(kit).parent / "initial.safetensors"
        print(serve(config, folder, kit, initial, vocabulary=pytorch_trainer.VOCABULARY))
    else:
        transport = connect(kit, port=int(port) if port else None)
        print(run_site(trainer(transport.site), transport, folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
