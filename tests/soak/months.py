"""Months of a study in an hour: thousands of rounds with sites that leave and come back.

    .venv/py3.11/bin/python -m tests.soak.months --rounds=5000

The server and the sites are two programs that speak gRPC under TLS. Every site leaves in the middle
of one training in fifty and comes back up to a second later; the server is killed a few times
before half of the rounds are done. The log is split into segments of a quarter of a MiB, of which
the newest two are kept. The cost is printed first.

In the second half, memory, threads and descriptors of both programs and the number of files must
not grow, and the log must stay below its bound. At the end the weights must equal those computed by
hand from the log, and the audit must verify the log without the removed segments and, in a copy of
the store with the segments restored, the whole chain. The exit code is 1 if any of these conditions
fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time

import numpy as np
from cryptography import x509

from federated import errors
from federated.audit import verification
from federated.security import provisioning
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.tensors import tensor_files
from runkit.events import EventLog
from tests.federated import server_program, toy

SITES = ("C1", "C2", "C3", "C4")
EXAMPLES = 10
LEAVES = 0.02  # share of trainings in whose middle a site leaves
KILLS = 3
SEGMENT_MIB, KEPT_SEGMENTS = 0.25, 2
SAMPLES = 40
_WARM_UP = 20  # rounds that are run first, to tell the cost
# Growth per thousand rounds that is not a leak: of one page cache, one pool of threads.
TOLERATED = {"MiB": 3.0, "threads": 4.0, "descriptors": 4.0, "files": 4.0}


SERVER = {
    "min_num_clients": 2,
    "max_num_clients": len(SITES),
    "wait_after_min_clients_s": 0.1,
    "poll_s": 2.0,
    "keep_globals": 2,
    "log_segment_mib": SEGMENT_MIB,
    "keep_log_segments": KEPT_SEGMENTS,
    "linger_s": 5.0,
}


class Leaves(Exception):
    """The site's program ends in the middle of a training."""


class Trainer(toy.ToyTrainer):
    """Moves the weights half way to the site's own number, so they stay bounded."""

    def __init__(self, site: str, rng: random.Random):
        self.site, self.plan, self.num_examples = site, toy.PLAN, EXAMPLES
        self._rng = rng

    def score(self, weights):
        return {"dice": 0.5}

    def train(self, weights, round_number):
        if self._rng.random() < LEAVES:
            raise Leaves
        return {
            name: (array * np.float32(0.5) + np.float32(SITES.index(self.site))).astype(np.float32)
            for name, array in weights.items()
        }, {}


def run_sites(folder: str, port: int, seed: int, left) -> None:
    """Runs all sites until the run is over; `left` counts how often a site has left."""
    root = pathlib.Path(folder)

    def attend(number: int, site: str) -> None:
        rng = random.Random(seed + number)
        while True:
            transport = grpc_transport.connect(root / "kits" / site, host="localhost", port=port)
            try:
                site_loop.run(
                    Trainer(site, rng),
                    transport,
                    root / site,
                    pauses=lambda: itertools.repeat(0.1),
                )
                return
            except Leaves:
                with left.get_lock():
                    left.value += 1
                time.sleep(rng.random())
            except errors.ServerUnreachable:
                return

    threads = [
        threading.Thread(target=attend, args=given, daemon=True) for given in enumerate(SITES)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def of_process(name: str, pid: int) -> dict[str, float]:
    status = dict(
        line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        f"{name}, memory MiB": int(status["VmRSS"].split()[0]) / 1024,
        f"{name}, threads": int(status["Threads"]),
        f"{name}, descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


def size_of(*paths: pathlib.Path) -> float:
    """Returns MiB of files."""
    return sum(path.stat().st_size for path in paths) / 2**20


def of_disk(root: pathlib.Path) -> dict[str, float]:
    store = root / "store"
    files = [path for path in store.rglob("*") if path.is_file()]
    sites = [path for site in SITES for path in (root / site).rglob("*") if path.is_file()]
    log = [store / "events.jsonl", *(store / "events").glob("*")]
    return {
        "server, files": len(files),
        "sites, files": len(sites),
        "log in MiB": size_of(*log),
        "segments": len(log),
        "database in MiB": size_of(*store.glob("state.sqlite*")),
        "logs of the sites in MiB": size_of(*(path for path in sites if path.suffix == ".jsonl")),
    }


def closed_rounds(store: pathlib.Path) -> int:
    numbers = (int(path.stem.split("_")[1]) for path in (store / "global").glob("round_*"))
    return max(numbers, default=0)


class Run:
    """One run in a folder; `samples` are its figures."""

    def __init__(self, root: pathlib.Path, rounds: int, *, kills: int, samples: int, seed: int = 1):
        self._root, self._rounds, self._seed = root, rounds, seed
        self._kill_at = [rounds * (number + 1) // (2 * kills + 1) for number in range(kills)]
        self._sample_at = sorted({rounds * number // samples for number in range(1, samples)})
        self._context = multiprocessing.get_context("spawn")
        self.samples: list[dict[str, float]] = []
        self.left = self._context.Value("i", 0)
        self.seconds = 0.0

    def _server(self):
        ports = self._context.Queue()
        process = self._context.Process(
            target=server_program.serve,
            args=(str(self._root), {**SERVER, "num_rounds": self._rounds}, ports),
            daemon=True,
        )
        process.start()
        return process, ports.get(timeout=300)

    def __call__(self) -> None:
        self._root.mkdir()
        provisioning.provision(self._root / "kits", "localhost", SITES, port=0)
        toy.write_initial(self._root / "initial.safetensors")
        (self._root / "removed").mkdir()
        server, port = self._server()
        sites = self._context.Process(
            target=run_sites, args=(str(self._root), port, self._seed, self.left), daemon=True
        )
        began = time.monotonic()
        sites.start()
        try:
            while server.is_alive():
                done = closed_rounds(self._root / "store")
                self._keep_segments()
                if self._kill_at and done >= self._kill_at[0]:
                    self._kill_at.pop(0)
                    server.kill()
                    server.join()
                    server, _ = self._server()
                elif self._sample_at and done >= self._sample_at[0]:
                    self._sample_at.pop(0)
                    self._sample(done, server.pid, sites.pid, time.monotonic() - began)
                else:
                    time.sleep(0.02)
            self.seconds = time.monotonic() - began
            sites.join(60)
        finally:
            server.kill()
            sites.kill()

    def _keep_segments(self) -> None:
        """Copies full segments before the server removes them."""
        for path in (self._root / "store" / "events").glob("0*.gz"):
            copy = self._root / "removed" / path.name
            if not copy.exists():
                shutil.copy(path, copy)

    def _sample(self, done: int, server: int, sites: int, seconds: float) -> None:
        try:
            found = {
                "round": done,
                "seconds": round(seconds, 1),
                **of_process("server", server),
                **of_process("sites", sites),
                **of_disk(self._root),
            }
        except (FileNotFoundError, ProcessLookupError, KeyError):
            return  # a file was replaced meanwhile, or a program has ended
        self.samples.append(found)
        print(json.dumps(found), flush=True)


def slopes(samples: list[dict[str, float]]) -> dict[str, float]:
    """Returns the growth of each figure in a thousand rounds, over the second half of the run."""
    half = samples[len(samples) // 2 :]
    rounds = [sample["round"] for sample in half]
    return {
        key: 1000 * statistics.linear_regression(rounds, [s[key] for s in half]).slope
        for key in half[0]
        if key != "round"
    }


def grown(samples: list[dict[str, float]]) -> list[str]:
    """Describes figures that grow although they must not, and a log beyond its bound."""
    found = []
    for key, slope in slopes(samples).items():
        limit = TOLERATED.get(key.rpartition(" ")[2]) if ", " in key else None
        if limit is not None and slope > limit:
            found.append(f"{key} grows by {slope:.3g} in a thousand rounds")
    bound = SEGMENT_MIB * (KEPT_SEGMENTS + 1.1)  # MiB, if segments could not be compressed
    highest = max(sample["log in MiB"] for sample in samples)
    if highest > bound or max(sample["segments"] for sample in samples) > KEPT_SEGMENTS + 1:
        found.append(f"the log reached {highest:.2f} MiB, its bound is {bound} MiB")
    return found


def by_hand(log: EventLog, rounds: int) -> np.float32:
    """Returns the weight `scale` that follows from the sites counted in each round."""
    scale, last = np.float32(toy.INITIAL["scale"]), 0
    for record in log.read():
        if record["event"] != "aggregated":
            continue
        assert record["round"] == last + 1
        each = [
            np.float64(np.float32(scale * np.float32(0.5) + np.float32(SITES.index(site)))) * cases
            for site, cases in sorted(record["sites"].items())
        ]
        scale, last = np.float32(sum(each) / sum(record["sites"].values())), record["round"]
    assert last == rounds, f"the log ends with round {last}"
    return scale


def check(root: pathlib.Path, rounds: int) -> str:
    """Raises unless the audit verifies store and log, and the weights equal those by hand."""
    authority = x509.load_pem_x509_certificate((root / "kits" / "server" / "ca.pem").read_bytes())
    bounded = verification.verify(root / "store", authority)
    shutil.copytree(root / "store", root / "whole")
    for path in (root / "removed").iterdir():
        (root / "whole" / "events").mkdir(exist_ok=True)
        if not (root / "whole" / "events" / path.name).exists():
            shutil.copy(path, root / "whole" / "events")
    whole = verification.verify(root / "whole", authority, head=bounded.head)
    assert whole.removed_lines == 0, whole
    arrays, _ = tensor_files.load(root / "store" / "global" / f"round_{rounds:03d}.safetensors")
    expected = by_hand(EventLog(root / "whole" / "events.jsonl"), rounds)
    assert arrays["scale"] == expected, (arrays["scale"], expected)
    packed = size_of(*(root / "whole" / "events").glob("*.gz"))
    return (
        f"{whole.lines} lines in {whole.segments} segments verified, {packed:.2f} MiB compressed; "
        f"without the removed ones the audit starts after line {bounded.removed_lines}, round "
        f"{bounded.removed_rounds}; the weights are those by hand"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1, help="of who leaves when")
    flags = parser.parse_args()
    if flags.rounds < 40:
        parser.error(f"--rounds is {flags.rounds}; give at least 40")
    with tempfile.TemporaryDirectory() as name:
        warm_up = Run(pathlib.Path(name) / "warm_up", _WARM_UP, kills=0, samples=2)
        warm_up()
        each_s = warm_up.seconds / _WARM_UP
        print(
            f"{flags.rounds} rounds of {each_s:.2f} s and {KILLS} restarts: about "
            f"{flags.rounds * each_s / 60:.0f} min, less than 100 MB of disk",
            flush=True,
        )
        run = Run(
            pathlib.Path(name) / "run", flags.rounds, kills=KILLS, samples=SAMPLES, seed=flags.seed
        )
        run()
        told = check(pathlib.Path(name) / "run", flags.rounds)
    for key, slope in slopes(run.samples).items():
        print(f"{key}: {run.samples[-1][key]:.6g} at the end, {slope:+.3g} in a thousand rounds")
    print(
        f"{flags.rounds} rounds in {run.seconds:.0f} s; sites left {run.left.value} times; {told}"
    )
    failures = grown(run.samples)
    for failure in failures:
        print(f"FAILED: {failure}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
