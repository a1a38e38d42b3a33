"""One federated round of two sites over mutual TLS, to test the exchange of weights alone.

The server and the loops of the sites are the real ones; only the training is left out.
"""

from __future__ import annotations

import concurrent.futures
import json
import pathlib
import queue
import threading
import time
from typing import Any

import numpy as np

from c2fnas import named_weights
from experiments.results.report_words import REPORTS
from federated.rounds import sharing
from federated.security.provisioning import provision
from federated.server.config import ServerConfig
from federated.server.serve import serve
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.tensors.weights import specs_of

Weights = dict[str, np.ndarray]
EXAMPLES = {"C1": 252, "C2": 286}  # training cases of the paper's clients


class OneStepSite:
    """A federated site that sends given weights instead of training."""

    vocabulary = REPORTS

    def __init__(self, plan: dict[str, Any], num_examples: int, after: Weights):
        self.plan, self.num_examples, self._after = plan, num_examples, after
        self.specs = specs_of(after)

    def score(self, weights: Weights) -> dict[str, float]:
        return {"dice": 0.0}

    def train(self, weights: Weights, round_number: int) -> tuple[Weights, dict[str, float]]:
        return self._after, {}

    def local_models(self) -> dict[str, Weights]:
        return {}

    def evaluate(self, model_name: str, weights: Weights) -> list[dict[str, Any]]:
        return []


def federate(
    folder: pathlib.Path, before: Weights, after: Weights, plan: dict[str, Any]
) -> tuple[float, float]:
    """Runs the round and compares its result with the mean computed here.

    Args:
      folder: an empty folder, for the kits, the server's store and the sites' journals.
      before: the initial model, which C2 sends back.
      after: what C1 sends.
      plan: the plan of the experiment.
    Returns:
      The round's seconds, and the largest difference of a weight.
    Raises:
      Any error that the server or a site raises.
    """
    provision(folder / "kits", ["localhost"], tuple(EXAMPLES), port=0)
    initial = folder / "initial.safetensors"
    named_weights.save(initial, before, {"plan": json.dumps(plan)})
    server_config = ServerConfig(
        num_rounds=1,
        local_epochs=1,
        cross_site_evaluation=False,
        host="127.0.0.1",
        port=0,
        linger_s=5.0,
    )
    ports: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    failed = threading.Event()

    def note(ended: concurrent.futures.Future) -> None:
        if ended.exception() is not None:
            failed.set()  # otherwise the others would wait for this site
            ports.put(None)

    def pause(seconds: float) -> None:
        if failed.wait(seconds):
            raise site_loop.SiteTerminated

    def take_part(site: str, port: int) -> None:
        trainer = OneStepSite(plan, EXAMPLES[site], after if site == "C1" else before)
        transport = grpc_transport.connect(folder / "kits" / site, host="localhost", port=port)
        site_loop.run(trainer, transport, folder / site, pause=pause)

    with concurrent.futures.ThreadPoolExecutor(1 + len(EXAMPLES)) as pool:
        server = pool.submit(
            serve,
            server_config,
            folder / "store",
            folder / "kits" / "server",
            initial,
            vocabulary=REPORTS,
            on_ready=ports.put,
            stop=failed,
        )
        server.add_done_callback(note)
        port = ports.get()
        start = time.monotonic()
        sites: list[concurrent.futures.Future] = []
        if port is not None:
            sites += [pool.submit(take_part, site, port) for site in EXAMPLES]
        for part in sites:
            part.add_done_callback(note)
        concurrent.futures.wait(sites)
        seconds = time.monotonic() - start
    for part in (*sites, server):
        part.result()
    aggregate, _ = named_weights.load(folder / "store" / "global" / "round_001.safetensors")
    total = sum(EXAMPLES.values())
    error = max(
        float(
            np.abs(
                aggregate[name]
                - (EXAMPLES["C1"] * after[name].astype(np.float64) + EXAMPLES["C2"] * before[name])
                / total
            ).max()
        )
        for name in sharing.of_plan(plan).of(before).shared
    )
    return seconds, error
