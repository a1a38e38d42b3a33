"""The cost of a run with many sites: predicted, and measured with real sites.

    .venv/py3.11/bin/python -m tests.benchmarks.scale --sites=2,8,32,128 --megabytes=3
    .venv/py3.11/bin/python -m tests.benchmarks.scale --measure --sites=2,8,32 --megabytes=3

The first command prints predictions; every number of the study is a flag. The second runs a few
rounds of a real server and real sites, separate programs under mutual TLS, over links of the given
speeds, and prints the measurements beside the predictions. Training is replaced by a pause. Use the
seconds that the server's processor took in these runs to correct `MEASURED` in `scale_model.py` for
your machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import threading
import time
from typing import Any

import numpy as np

from federated.security import provisioning
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.tensors import tensor_files
from federated.tensors.weights import specs_of
from tests.benchmarks import machine, scale_model
from tests.benchmarks.scale_model import Study
from tests.federated import server_program, toy
from tests.federated.proxy import Link

ROUNDS = 4
_PLAN = {"what": "scale"}
_PROCESSES = 2  # that the sites share
_TICKS = os.sysconf("SC_CLK_TCK")


def model(megabytes: float) -> dict[str, np.ndarray]:
    values = round(megabytes * 1e6 / 4)
    return {
        f"layer_{number}": np.ones(part, np.float32)
        for number, part in enumerate((values // 2, values - values // 2))
    }


class Pauses:
    """A site that waits instead of training, and adds a little to the weights."""

    plan, num_examples, vocabulary = _PLAN, 10, toy.VOCABULARY

    def __init__(self, specs, training_s: float):
        self.specs, self._training_s = specs, training_s

    def score(self, weights):
        return {"dice": 0.5}

    def train(self, weights, round_number):
        for array in weights.values():
            array += np.float32(0.125)
        time.sleep(self._training_s)
        return weights, {}

    def local_models(self):
        return {}

    def evaluate(self, model_name, weights):
        return []


def settings_of(study: Study) -> dict[str, Any]:
    """Returns the server's settings."""
    return {
        "num_rounds": ROUNDS,
        "min_num_clients": study.minimum or study.sites,
        "max_num_clients": study.sites,
        "wait_after_min_clients_s": study.wait_s,
        "transfers_at_once": study.transfers_at_once,
        "keep_updates": study.keep_updates,
        "keep_globals": study.keep_globals,
        "linger_s": 2.0,
    }


def run_sites(folder: str, study: Study, mine: list[int], port: int, counted) -> None:
    root, links = pathlib.Path(folder), []
    specs = specs_of(model(study.model_mb))

    def attend(number: int) -> None:
        link = Link(port)
        link.rate = round(study.up * 1e6)
        links.append(link)
        transport = grpc_transport.connect(
            root / "kits" / f"S{number}", host="localhost", port=link.port
        )
        trainer = Pauses(specs, study.trainings_s[number])
        site_loop.run(trainer, transport, root / f"S{number}")

    threads = [threading.Thread(target=attend, args=(number,), daemon=True) for number in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted.put((sum(link.up for link in links), sum(link.down for link in links)))


def processor_of(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_of(pid: int) -> float:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(study: Study) -> dict[str, float]:
    """Runs `ROUNDS` rounds; returns the figures of one round, without the first."""
    context = multiprocessing.get_context("spawn")
    names = [f"S{number}" for number in range(study.sites)]
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        provisioning.provision(root / "kits", "localhost", tuple(names), port=0)
        tensor_files.save(
            root / "initial.safetensors", model(study.model_mb), {"plan": json.dumps(_PLAN)}
        )
        ports, counted = context.Queue(), context.Queue()
        server = context.Process(
            target=server_program.serve, args=(name, settings_of(study), ports), daemon=True
        )
        server.start()
        port = ports.get(timeout=300)
        idle_mib = memory_of(server.pid)
        groups = [list(range(study.sites))[first::_PROCESSES] for first in range(_PROCESSES)]
        sites = [
            context.Process(target=run_sites, args=(name, study, group, port, counted), daemon=True)
            for group in groups
            if group
        ]
        for process in sites:
            process.start()
        used, peak_mib, peak_disk = {}, idle_mib, 0.0
        while server.is_alive():
            try:
                for number in range(1, ROUNDS + 1):
                    path = root / "store" / "global" / f"round_{number:03d}.safetensors"
                    if number not in used and path.exists():
                        used[number] = processor_of(server.pid)
                peak_mib = max(peak_mib, memory_of(server.pid))
            except (OSError, IndexError):
                break
            peak_disk = max(peak_disk, disk_of(root / "store"))
            server.join(0.02)
        bytes_up, bytes_down = map(sum, zip(*(counted.get(timeout=60) for _ in sites), strict=True))
        for process in sites:
            process.join()
        log = root / "store" / "events.jsonl"
        events = [json.loads(line) for line in log.read_text().splitlines()]
        log_kb = log.stat().st_size / 1e3 / ROUNDS / study.sites
    moments = [event["time"] for event in events if event["event"] == "aggregated"]
    return {
        "seconds": statistics.median(b - a for a, b in itertools.pairwise(moments)),
        "processor s": (used[ROUNDS] - used[1]) / (ROUNDS - 1),
        "received MB": bytes_up / 1e6 / ROUNDS,
        "sent MB": bytes_down / 1e6 / (ROUNDS + 1),  # the last model is scored, too
        "memory MiB": peak_mib,
        "disk MB": peak_disk,
        "log kB per site": log_kb,
        "idle MiB": idle_mib,
    }


def disk_of(store: pathlib.Path) -> float:
    """Returns MB of models and updates."""
    found: dict[int, int] = {}
    for folder, _, names in os.walk(store):  # tolerates files that are removed meanwhile
        for name in names:
            if name.endswith(".safetensors"):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(os.path.join(folder, name))
                    found[status.st_ino] = status.st_size  # the best model has several names
    return sum(found.values()) / 1e6


def predicted(study: Study) -> dict[str, float]:
    found = scale_model.predict(dataclasses.replace(study, rounds=ROUNDS))
    return {
        "seconds": found.round_s,
        "processor s": found.processor_s,
        "received MB": found.received_mb,
        "sent MB": found.sent_mb,
        "memory MiB": found.memory_mib,
        "disk MB": found.disk_mb - found.log_mb,
        "log kB per site": found.log_mb * 1e3 / ROUNDS / study.sites,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", default="2,4,8,16,32,64,128,256")
    parser.add_argument("--measure", action="store_true", help=f"lead {ROUNDS} real rounds")
    parser.add_argument("--megabytes", type=float, default=3.0, help="of the model, 10**6 bytes")
    for field in dataclasses.fields(Study):
        if field.name not in ("sites", "model_mb"):
            kind = int if isinstance(field.default, int) else float
            parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    flags = vars(parser.parse_args())
    counts = [int(number) for number in flags.pop("sites").split(",")]
    measuring, megabytes = flags.pop("measure"), flags.pop("megabytes")
    print(machine.describe(), flush=True)
    for sites in counts:
        study = Study(sites=sites, model_mb=megabytes, **flags)
        if measuring:
            found, expected = measure(study), predicted(study)
            print(f"{sites} sites, measured / predicted: ", end="")
            print(
                ", ".join(
                    f"{key} {value:.4g}" + (f" / {expected[key]:.4g}" if key in expected else "")
                    for key, value in found.items()
                ),
                flush=True,
            )
        else:
            print(f"{sites} sites, per round unless said otherwise:")
            for key, value in dataclasses.asdict(scale_model.predict(study)).items():
                print(f"  {key:<12} {value:,.4g}")
    if not measuring:
        number, what = scale_model.most_sites(study, scale_model.MEASURED)
        print(
            f"one server: up to {number:,} sites; then its {what} is in use for half of the time "
            "that a site trains"
        )


if __name__ == "__main__":
    main()
