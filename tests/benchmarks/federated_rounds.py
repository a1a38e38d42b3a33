"""Measures time and server memory of a round without training, beside NVFLARE and Flower.

    .venv/py3.11/bin/python -m tests.benchmarks.federated_rounds \\
        --peers_python=.venv/peers/bin/python
    SITES=2,8 VALUES=20000000 ROUNDS=4 ...       sites; float32 values in 150 arrays; rounds, of
                                                 which the first is not counted
    VALUES=256 ROUNDS=60 ...                     the cost of a round besides its bytes
    MEMORY=2,8,32 VALUES=20000000 ...            only the memory of this product's server
    MEMORY=2,8,32 VALUES=250000000 ROUNDS=1 ...  the same with a model of 1 GB in tensors of
                                                 28 MiB; needs 36 GB of disk
    MEMORY=3,32 VALUES=10000000 ROUNDS=2 RULES=all ...  the same under every aggregation rule, with
                                                 a model of 40 MB

Each site is a process and adds a constant to the weights it receives. If only memory is measured,
the sites are threads of a few processes, keep models on disk only, and all send the same update.

`ours` runs with everything enabled: mutual TLS, checks, fsync, audit, scores. `floor` is the
minimum that gRPC allows: one Python server under mutual TLS that adds up updates in memory, without
checks, hashes or files. NVFLARE runs FedAvg in its simulator, without TLS and without a global
model on disk. Flower runs its SuperLink and one SuperNode per site, without TLS. Both differences
favour them. Flower takes long with more than 4 rounds; `FLOWER=0` leaves it out.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import threading
import time

from tests.benchmarks import side_by_side
from tests.benchmarks.side_by_side import Candidate
from tests.federated import server_program

VALUES = int(os.environ.get("VALUES", "20000000"))
ROUNDS = int(os.environ.get("ROUNDS", "4"))
ARRAYS = 150
_PLAN = {"what": "benchmark"}


def model_arrays() -> dict:
    """Returns VALUES float32 values in 150 arrays of different sizes, none above 28 MiB."""
    import numpy as np

    count = min(ARRAYS, VALUES)
    sizes = (
        np.diff(np.round(np.linspace(0, 1, count + 1) ** 2 * VALUES).astype(int))
        if VALUES < 250_000_000
        else [7 * 2**20] * 36
    )
    return {f"layer_{i:03d}": np.full(size, i / 8, np.float32) for i, size in enumerate(sizes)}


class Adds:
    """A site that adds a constant instead of training."""

    plan = _PLAN

    def __init__(self, number: int, specs):
        from tests.federated import toy

        self.num_examples, self.specs, self.vocabulary = 10 + number, specs, toy.VOCABULARY

    def score(self, weights):
        return {"dice": 0.5}

    def train(self, weights, round_number):
        for array in weights.values():
            array += 0.5
        return weights, {"loss": 1.0}

    def local_models(self):
        return {}

    def evaluate(self, model_name, weights):
        return []


def _serving(folder: str, sites: int, rule: str = "fedavg"):
    return server_program.serving(
        folder,
        num_rounds=ROUNDS,
        min_num_clients=sites,
        max_num_clients=sites,
        aggregation=rule,
        keep_updates=0,
        keep_globals=2,
        linger_s=5.0,
    )


def _take_part(folder: str, site: str, number: int, port: int) -> None:
    from federated.site import grpc_transport
    from federated.site import loop as site_loop
    from federated.tensors import tensor_files
    from runkit import allocator

    allocator.keep_buffers()  # as experiments/join.py
    root = pathlib.Path(folder)
    with tensor_files.TensorFile(root / "initial.safetensors") as initial:
        specs = initial.specs
    site_loop.run(
        Adds(number, specs),
        grpc_transport.connect(root / "kits" / site, host="localhost", port=port),
        root / site,
    )


def memory_mib(pid: int, key: str) -> float:
    """Returns a value of /proc/<pid>/status in MiB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def _processes():
    started: list[multiprocessing.Process] = []
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def _relay(folder: str, names: list[str], port: int) -> None:
    """Acts for several sites without a model in memory.

    Downloads are deleted; the update to upload is on disk.
    """
    from federated.site import grpc_transport
    from federated.tensors import tensor_files

    root = pathlib.Path(folder)
    with tensor_files.TensorFile(root / "update.safetensors") as file:
        manifest = tensor_files.file_manifest(file)

    def take_part(name: str) -> None:
        transport, incoming = (
            grpc_transport.connect(root / "kits" / name, host="localhost", port=port),
            root / f"{name}.safetensors",
        )
        transport.login(_PLAN, 10)
        while (task := transport.next_task()).kind != "finished":
            if task.kind == "wait":
                continue
            transport.pull(task.model, incoming)
            incoming.unlink()
            if task.kind == "score":
                transport.report_scores(task.round, {"dice": 0.5})
                continue
            transport.report_scores(task.round - 1, {"dice": 0.5})
            transport.push(
                root / "update.safetensors",
                manifest.sha256,
                round_number=task.round,
                num_examples=10,
                metrics={},
                manifest=lambda: manifest,
            )
        transport.close()

    threads = [threading.Thread(target=take_part, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _expected(rule: str, initial: float, sent: float, sites: int) -> float:
    """Returns a value of the last global model if every site sends the same in every round."""
    import numpy as np

    from federated.aggregation import rules
    from federated.aggregation.rule import Slab

    applied, model = rules.parse(rule), np.float32([initial])
    state = {name: np.full(1, value) for name, value in applied.init(()).items()}
    for _ in range(ROUNDS):
        updates = [np.float32([sent])] * sites
        result = applied.aggregate(Slab(updates, [10] * sites, model, state))
        model, state = result.model.astype(np.float32), result.state
    return float(model[0])


def ours_memory(sites: int, rule: str = "fedavg") -> tuple[float, float]:
    """Returns (the server's peak above an idle server, the idle server) in MiB.

    The peak is that of the rounds alone, without the start.
    """
    import numpy as np

    from federated.security import provisioning
    from federated.tensors import tensor_files

    names, context = [f"S{n}" for n in range(sites)], multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.ExitStack() as stack,
        _processes() as started,
    ):
        folder = pathlib.Path(name)
        provisioning.provision(folder / "kits", "localhost", tuple(names), port=0)
        arrays = model_arrays()
        tensor_files.save(folder / "initial.safetensors", arrays, {"plan": json.dumps(_PLAN)})
        for array in arrays.values():
            array += 0.5
        tensor_files.save(folder / "update.safetensors", arrays)
        del arrays
        server, port = stack.enter_context(_serving(name, sites, rule))
        pathlib.Path(f"/proc/{server.pid}/clear_refs").write_text("5")
        idle, peak = memory_mib(server.pid, "VmRSS"), 0.0
        for first in range(min(sites, 4)):
            started.append(context.Process(target=_relay, args=(name, names[first::4], port)))
            started[-1].start()
        while server.is_alive():
            peak = max(peak, memory_mib(server.pid, "VmHWM"))
            server.join(0.05)
        result, _ = tensor_files.load(
            folder / "store" / "global" / f"round_{ROUNDS:03d}.safetensors"
        )
        for i, array in enumerate(result.values()):
            assert (array == np.float32(_expected(rule, i / 8, i / 8 + 0.5, sites))).all()
    return peak - idle, idle


def ours(sites: int) -> dict[str, float]:
    from federated.security import provisioning
    from federated.tensors import tensor_files

    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    names, context = [f"S{n}" for n in range(sites)], multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.ExitStack() as stack,
        _processes() as started,
    ):
        folder = pathlib.Path(name)
        provisioning.provision(folder / "kits", "localhost", tuple(names), port=0)
        tensor_files.save(
            folder / "initial.safetensors", model_arrays(), {"plan": json.dumps(_PLAN)}
        )
        server, port = stack.enter_context(_serving(name, sites))
        idle = memory_mib(server.pid, "VmRSS")
        for number, site in enumerate(names):
            started.append(context.Process(target=_take_part, args=(name, site, number, port)))
            started[-1].start()
        log, peak = folder / "store" / "events.jsonl", 0.0
        while server.is_alive():
            peak = max(peak, memory_mib(server.pid, "VmHWM"))
            server.join(0.05)
        moments = [
            e["time"]
            for e in map(json.loads, log.read_text().splitlines())
            if e["event"] == "aggregated"
        ]
        arrays, _ = tensor_files.load(
            folder / "store" / "global" / f"round_{ROUNDS:03d}.safetensors"
        )
        assert all((array == i / 8 + 0.5 * ROUNDS).all() for i, array in enumerate(arrays.values()))
    return {"seconds a round": median_step(moments), "server MiB above idle": peak - idle}


def median_step(moments: list[float]) -> float:
    return statistics.median(b - a for a, b in itertools.pairwise(moments))


def _serve_floor(folder: str, sites: int, ports) -> None:
    from concurrent import futures

    import grpc
    import numpy as np

    from federated.security.tls import Identity

    model = np.concatenate(list(model_arrays().values()))
    state, together = (
        {"model": model, "sum": np.zeros_like(model), "times": []},
        threading.Barrier(sites),
    )
    lock = threading.Lock()

    def down(request, context):
        view = memoryview(state["model"]).cast("B")
        for at in range(0, len(view), 2**20):
            yield bytes(view[at : at + 2**20])

    def up(requests, context):
        received = b"".join(requests)
        with lock:
            state["sum"] += np.frombuffer(received, np.float32)
        if together.wait() == 0:
            state["model"] = state["sum"] / np.float32(sites)
            state["sum"] = np.zeros_like(model)
            state["times"].append(time.time())
        together.wait()
        return json.dumps(state["times"]).encode()

    handlers = {
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Down": grpc.unary_stream_rpc_method_handler(down),
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(2 * sites + 2),
        options=[("grpc.max_receive_message_length", 2**22)],
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floor", handlers),))
    port = server.add_secure_port(
        "127.0.0.1:0", Identity.of(pathlib.Path(folder) / "kits" / "server", "server").for_server()
    )
    server.start()
    ports.put(port)
    server.wait_for_termination()


def _floor_site(folder: str, site: str, port: int, out) -> None:
    import grpc
    import numpy as np

    from federated.security.tls import Identity

    credentials = Identity.of(pathlib.Path(folder) / "kits" / site, "site").for_client()
    times = []
    with grpc.secure_channel(
        f"localhost:{port}", credentials, options=[("grpc.max_receive_message_length", 2**22)]
    ) as channel:
        for _ in range(ROUNDS):
            model = np.frombuffer(
                bytearray().join(channel.unary_stream("/floor/Down")(b"")), np.float32
            ) + np.float32(0.5)
            view = memoryview(model).cast("B")
            times = json.loads(
                channel.stream_unary("/floor/Up")(
                    bytes(view[at : at + 2**20]) for at in range(0, len(view), 2**20)
                )
            )
    out.put(times)


def floor(sites: int) -> dict[str, float]:
    from federated.security import provisioning

    names, context = [f"S{n}" for n in range(sites)], multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.ExitStack() as stack,
        _processes() as started,
    ):
        provisioning.provision(pathlib.Path(name) / "kits", "localhost", tuple(names), port=0)
        out = context.Queue()
        server, port = stack.enter_context(server_program.running(_serve_floor, name, sites))
        for site in names:
            started.append(context.Process(target=_floor_site, args=(name, site, port, out)))
            started[-1].start()
        times = out.get(timeout=600)
        peak = memory_mib(server.pid, "VmHWM")
    return {"seconds a round": median_step(times), "server MiB above idle": peak}


def main() -> None:
    flags = side_by_side.arguments(__doc__)
    if "MEMORY" in os.environ:
        from federated.aggregation import rules

        named = os.environ.get("RULES", "fedavg")
        for rule in rules.RULES if named == "all" else named.split(";"):
            for sites in map(int, os.environ["MEMORY"].split(",")):
                above, idle = ours_memory(sites, rule)
                print(
                    f"{rule}, {sites} sites: {above:.0f} MiB above the {idle:.0f} MiB of an idle server",
                    flush=True,
                )
        return
    for sites in map(int, os.environ.get("SITES", "2").split(",")):
        candidates = [
            Candidate(name, f"tests.benchmarks.federated_rounds:{name}", arguments={"sites": sites})
            for name in ("ours", "floor")
        ]
        if flags.peers_python:
            peers = ("nvflare", "flower") if os.environ.get("FLOWER", "1") == "1" else ("nvflare",)
            candidates += [
                Candidate(
                    name,
                    f"tests.benchmarks.federated_peers:{name}",
                    python=flags.peers_python,
                    arguments={"sites": sites},
                )
                for name in peers
            ]
        figures = side_by_side.measure(candidates, repetitions=flags.repetitions, warm_up=0)
        print(
            f"{sites} sites, {VALUES} values\n"
            f"{side_by_side.table(figures, figure='seconds a round', reference='ours')}\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
