"""Sends a large model over a slow link that is cut three times.

    .venv/py3.11/bin/python -m tests.soak.slow_link --megabytes=758 --rate=1

The model must arrive, only the bytes lost by the cuts may be sent again, and no other site may have
to wait. Server, slow site and quick site are separate programs under mutual TLS. The slow site's
link passes `--rate` megabytes per second each way and is cut once during the download and twice
during the upload. The round's deadline is shorter than the transfers together, so their progress
must keep the round open. Meanwhile the quick site, which has delivered, keeps sending heartbeats
and fetching the model. The figures are printed as JSON: bytes on the slow link as a share of the
model, and how long the quick site's calls took before and during the transfers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from federated.security import provisioning
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.tensors import tensor_files
from tests.federated import server_program, toy
from tests.federated.proxy import link
from tests.soak import cost

SLOW, QUICK = "C1", "C2"
PLAN = {"what": "slow link"}
_TENSOR = 7 * 2**20  # values; 28 MiB, the largest tensor of the network
_CUTS = {"down": (0.5,), "up": (0.3, 0.7)}  # shares of the model at which the link is cut


def _model(megabytes: float, value: float) -> dict[str, np.ndarray]:
    values = round(megabytes * 1e6 / 4)
    sizes = [min(_TENSOR, values - begin) for begin in range(0, values, _TENSOR)]
    return {
        f"layer_{number:02d}": np.full(size, value, np.float32) for number, size in enumerate(sizes)
    }


class Adds:
    """A site that adds a number instead of training."""

    plan = PLAN

    vocabulary = toy.VOCABULARY

    def __init__(self, step: float, num_examples: int, specs=()):
        self._step, self.num_examples, self.specs = np.float32(step), num_examples, specs

    def score(self, weights):
        return {"dice": 0.5}

    def train(self, weights, round_number):
        for array in weights.values():
            array += self._step
        return weights, {"loss": 1.0}

    def local_models(self):
        return {}

    def evaluate(self, model_name, weights):
        return []


def _take_part(folder: str, port: int) -> None:
    root = pathlib.Path(folder)
    with tensor_files.TensorFile(root / "initial.safetensors") as initial:
        specs = initial.specs
    site_loop.run(
        Adds(1.0, 30, specs),
        grpc_transport.connect(root / "kits" / SLOW, host="localhost", port=port),
        root / SLOW,
    )


@contextlib.contextmanager
def _program(target, *arguments) -> Iterator[multiprocessing.Process]:
    process = multiprocessing.get_context("spawn").Process(
        target=target, args=arguments, daemon=True
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _timed(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class _QuickSite:
    """Delivers its update and measures how long its calls take."""

    def __init__(self, folder: pathlib.Path, port: int):
        self._transport, self._folder = (
            grpc_transport.connect(folder / "kits" / QUICK, host="localhost", port=port),
            folder / QUICK,
        )
        self._transport.login(PLAN, 10)
        self._folder.mkdir()
        self._incoming = self._folder / "incoming.safetensors"
        self._incoming_s, self._beats_s = [], []

    def deliver(self) -> None:
        self.fetch()
        arrays, _ = tensor_files.load(self._incoming)
        arrays, metrics = Adds(-1.0, 10).train(arrays, 1)
        path = self._folder / "update.safetensors"
        sha256 = tensor_files.save(path, arrays)
        self._transport.report_scores(0, {"dice": 0.5})
        self._transport.push(path, sha256, round_number=1, num_examples=10, metrics=metrics)
        path.unlink()

    def fetch(self) -> None:
        self._incoming.unlink(missing_ok=True)
        self._incoming_s.append(_timed(lambda: self._transport.pull("round_000", self._incoming)))

    def beat(self) -> None:
        self._beats_s.append(_timed(self._transport.heart_beat))

    def figures(self) -> dict[str, float]:
        """Returns the figures since the last call, in seconds."""
        taken = {
            "pulls": len(self._incoming_s),
            "pull": statistics.median(self._incoming_s),
            "longest_pull": max(self._incoming_s),
        }
        taken.update(
            heart_beat=statistics.median(self._beats_s), longest_heart_beat=max(self._beats_s)
        )
        self._incoming_s, self._beats_s = [], []
        return {key: round(value, 4) for key, value in taken.items()}

    def close(self) -> None:
        self._transport.close()


def run(
    megabytes: float, rate: float, *, deadline_s: float | None = None, fetch_every_s: float = 20.0
) -> dict:
    """Returns the figures up to the mean of the round.

    Args:
      megabytes: size of the model.
      rate: megabytes per second over the slow link, each way.
      deadline_s: deadline of the round. Progress of an update extends it; the time before the first
        update begins must fit into it.
    Raises:
      AssertionError: if the mean is not the one computed by hand.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        provisioning.provision(folder / "kits", "localhost", (SLOW, QUICK), port=0)
        tensor_files.save(
            folder / "initial.safetensors", _model(megabytes, 2.0), {"plan": json.dumps(PLAN)}
        )
        size = sum(array.nbytes for array in _model(megabytes, 0.0).values())
        _, port = stack.enter_context(
            server_program.serving(
                folder, num_rounds=1, round_deadline_s=deadline_s, poll_s=2.0, linger_s=5.0
            )
        )
        quick = _QuickSite(folder, port)
        for _ in range(3):
            quick.beat()
            quick.fetch()
        alone = quick.figures()
        quick.deliver()
        quick.beat()
        wire = stack.enter_context(link(port))
        wire.rate = rate * 1e6
        wire.cut_down, wire.cut_up = (
            [int(share * size) for share in _CUTS[endpoint]] for endpoint in ("down", "up")
        )
        site, began, due = (
            stack.enter_context(_program(_take_part, name, wire.port)),
            time.monotonic(),
            0.0,
        )
        events = folder / "store" / "events.jsonl"
        while '"aggregated"' not in events.read_text():
            if not site.is_alive() and site.exitcode:
                raise RuntimeError("the slow site gave up; see its messages above")
            quick.beat()
            if time.monotonic() >= due:
                quick.fetch()
                due = time.monotonic() + fetch_every_s
            site.join(min(1.0, fetch_every_s))
        seconds, meanwhile = time.monotonic() - began, quick.figures()
        quick.close()
        arrays, _ = tensor_files.load(folder / "store" / "global" / "round_001.safetensors")
        assert all((array == 2.5).all() for array in arrays.values()), (
            "the mean is not (30 * 3 + 10 * 1) / 40"
        )
        kinds = [json.loads(line)["event"] for line in events.read_text().splitlines()]
    return {
        "model_bytes": size,
        "seconds": round(seconds, 1),
        "deadline_s": deadline_s,
        "cuts": wire.cuts - 1,  # closing the link counts as one
        "down / model": round(wire.down / size, 4),
        "up / model": round(wire.up / size, 4),
        "expired": kinds.count("round_expired"),
        "quick site alone": alone,
        "quick site meanwhile": meanwhile,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=758.0, help="of the model, 10^6 bytes")
    parser.add_argument(
        "--rate", type=float, default=1.0, help="megabytes per second over the slow link, each way"
    )
    flags = parser.parse_args()
    transfers = f"a model of {flags.megabytes:g} MB down and up over {flags.rate:g} MB/s"
    cost.tell(transfers, 2 * flags.megabytes / flags.rate)
    result = run(flags.megabytes, flags.rate, deadline_s=1.2 * flags.megabytes / flags.rate)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
