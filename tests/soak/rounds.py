"""Runs a thousand rounds with four sites in which one call in a hundred is cut.

    .venv/py3.11/bin/python -m tests.soak.rounds --rounds=1000

Memory, threads, descriptors and disk of the server must not grow. The server is a separate
program, and the sites reach it through links that are cut at random. It prints the server's figures
during the run and the slope of each over the second half. It stops with an error if the result
differs from the one computed by hand."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import random
import statistics
import tempfile
import threading

import numpy as np

from federated.security import provisioning
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.tensors import tensor_files
from tests.federated import server_program, toy
from tests.federated.proxy import link
from tests.soak import cost

_ROUND_S = 0.3
SITES = ("C1", "C2", "C3", "C4")
_SERVER = {"min_num_clients": 4, "max_num_clients": 4, "poll_s": 2.0, "keep_globals": 2}


class Trainer(toy.ToyTrainer):
    """Moves the weights half way to the site's own number, so they stay bounded."""

    def __init__(self, site: str, cut, rng: random.Random):
        self.site, self.plan, self.num_examples = site, toy.PLAN, 10
        self._cut, self._rng = cut, rng

    def _perhaps(self) -> None:
        if self._rng.random() < 0.01 * 5:  # five calls per round
            self._cut()

    def score(self, weights):
        return {"dice": 0.5}

    def train(self, weights, round_number):
        self._perhaps()
        return {
            name: (array * np.float32(0.5) + np.float32(SITES.index(self.site))).astype(np.float32)
            for name, array in weights.items()
        }, {}


def figures(pid: int, store: pathlib.Path) -> dict[str, float]:
    status = dict(
        line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    models = list(store.rglob("*.safetensors"))
    return {
        "memory MiB": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "model files": len(models),
        "log and database MiB": sum(
            path.stat().st_size for path in store.iterdir() if path.is_file()
        )
        / 2**20,
    }


def run(rounds: int, *, seed: int = 1, samples: int = 20) -> list[dict[str, float]]:
    """Returns the server's figures during the run."""
    taken = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        kits = provisioning.provision(folder / "kits", "localhost", SITES, port=0)
        toy.write_initial(folder / "initial.safetensors")
        process, port = stack.enter_context(
            server_program.serving(folder, num_rounds=rounds, **_SERVER)
        )
        links = {site: stack.enter_context(link(port)) for site in SITES}
        for number, (site, wire) in enumerate(links.items()):
            trainer = Trainer(site, wire.cut, random.Random(seed + number))
            transport = grpc_transport.connect(kits / site, host="localhost", port=wire.port)
            threading.Thread(
                target=site_loop.run, args=(trainer, transport, folder / site), daemon=True
            ).start()
        done, store, due = 0, folder / "store", 0
        while process.is_alive():
            if done >= due and (store / "state.sqlite").exists():
                try:
                    taken.append({"round": done, **figures(process.pid, store)})
                except (FileNotFoundError, ProcessLookupError, KeyError):
                    break
                due += max(1, rounds // samples)
            process.join(0.05)
            done = (
                sum(1 for line in (store / "events.jsonl").open() if '"aggregated"' in line)
                if due - done < 2 or done < due
                else done
            )
        arrays, _ = tensor_files.load(store / "global" / f"round_{rounds:03d}.safetensors")
        scale = np.float32(2.0)
        for _ in range(rounds):
            each = [
                np.float64(np.float32(scale * np.float32(0.5) + np.float32(n))) * 10
                for n in range(4)
            ]
            scale = np.float32(sum(each) / 40)
        assert arrays["scale"] == scale, (arrays["scale"], scale)
    taken.append({"round": rounds, "cuts": sum(wire.cuts for wire in links.values())})
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1000)
    flags = parser.parse_args()
    cost.tell(f"{flags.rounds} rounds", _ROUND_S * flags.rounds)
    *taken, last = run(flags.rounds)
    for sample in taken:
        print(json.dumps(sample))
    half = taken[len(taken) // 2 :]
    rounds = [sample["round"] for sample in half]
    for key in [key for key in half[0] if key != "round"]:
        slope = (
            statistics.linear_regression(rounds, [sample[key] for sample in half]).slope
            if len(set(rounds)) > 1
            else 0.0
        )
        print(f"{key}: {half[-1][key]:.6g} at the end, {slope * 1000:+.3g} in a thousand rounds")
    print(f"{last['cuts']} cuts; the weights are those computed by hand")


if __name__ == "__main__":
    main()
