"""Runs every attack of the threat model against a server while three honest sites do their rounds.

    .venv/py3.11/bin/python -m tests.soak.attacks                       every attack, in turn
    .venv/py3.11/bin/python -m tests.soak.attacks --attacks=idle,rows   some of them

Server, honest sites and attacker are separate processes. For each attack it prints whether the
honest rounds gave the right bits; how long a round took compared with one without an attack, from
ten seconds after the attack began; the growth of the server's memory and disk; and the longest time
that the operator's status took. The attacker is either a stranger without a certificate or site C4,
which has one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import socket
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

import grpc
import numpy as np

from federated import errors
from federated.admin import client as admin_client
from federated.security import provisioning
from federated.security.tls import Identity
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.tensors import tensor_files
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Offer
from tests.federated import server_program, toy
from tests.soak import cost

HONEST = ("C1", "C2", "C3")
BULK = 3_000_000  # values; models of 12 MB, twelve chunks
_SERVER = {
    "min_num_clients": 3,
    "max_num_clients": 4,
    "wait_after_min_clients_s": 0.0,
    "poll_s": 2.0,
    "keep_globals": 2,
}
_SERVICE = "/weight_exchange.WeightExchange/"


class Trainer(toy.ToyTrainer):
    """A toy trainer for models of several chunks; `hold` delays the rounds, one by one."""

    def __init__(self, site: str, on_train: Callable[[int], None] = lambda number: None):
        super().__init__("C3" if site == "C4" else site, on_train=on_train, bulk=BULK)
        self.site = site

    def score(self, weights):
        return {"dice": 0.5}


class Target:
    """What an attacker knows: the server's address, its own kit, and when to stop."""

    def __init__(self, folder: str, port: int, over):
        self.folder, self.port, self.over = pathlib.Path(folder), port, over
        self.kit = self.folder / "kits" / "C4"

    def channel(self) -> grpc.Channel:
        credentials = Identity.of(self.kit, "site").for_client()
        options = [
            *conversion.CHANNEL_OPTIONS,
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
        ]
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options=options)

    def transport(self) -> grpc_transport.GrpcTransport:
        transport = grpc_transport.connect(self.kit, host="localhost", port=self.port)
        transport.login(toy.PLAN, 5)
        return transport

    def token(self) -> conversion.Metadata:
        while not self.over.is_set():
            with contextlib.suppress(errors.FederationError):
                transport = self.transport()
                metadata = conversion.token_metadata(transport._token)
                transport.close()
                return metadata
        return ()


def idle(target: Target) -> None:
    """A stranger opens a thousand connections, sends nothing, and reopens those that are closed."""
    held: list[socket.socket] = []
    while not target.over.is_set():
        held = [one for one in held if not _closed(one)]
        for _ in range(min(100, 1084 - len(held))):
            with contextlib.suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", target.port), timeout=1))
        target.over.wait(0.05)  # two thousand per second


def _closed(held: socket.socket) -> bool:
    held.setblocking(False)
    try:
        if held.recv(1):
            return False
    except BlockingIOError:
        return False
    except OSError:
        pass
    held.close()
    return True


def half_handshakes(target: Target) -> None:
    """A stranger starts a handshake on many connections and finishes none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    held: list[socket.socket] = []
    while not target.over.is_set():
        held = [one for one in held if not _closed(one)]
        for _ in range(min(50, 1000 - len(held))):
            with contextlib.suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", target.port), timeout=1))
                held[-1].sendall(hello[: random.randrange(1, len(hello))])
        target.over.wait(0.1)


def idle_with_certificate(target: Target) -> None:
    """A site opens hundreds of connections with its certificate and keeps them."""
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(target.channel()) for _ in range(300)]
        while not target.over.is_set():
            for channel in channels:
                with contextlib.suppress(grpc.RpcError):
                    channel.unary_unary(_SERVICE + "HeartBeat")(b"", timeout=1)
                if target.over.is_set():
                    return


def half_open(target: Target) -> None:
    """A site opens calls of every kind and never sends a message."""
    metadata = target.token()
    with target.channel() as channel:
        while not target.over.is_set():
            calls = []
            for method in ("NextTask", "Send", "SubmitRows", "Describe") * 8:

                def silent():
                    target.over.wait(20)
                    yield from ()

                calls.append(channel.stream_stream(_SERVICE + method)(silent(), metadata=metadata))
            target.over.wait(20)
            for call in calls:
                call.cancel()


def rows(target: Target) -> None:
    """A site sends messages of four megabytes as rows."""
    metadata, message = target.token(), bytes(4 * 2**20 - 100)
    _again(target, "SubmitRows", metadata, [message] * 300)


def headers(target: Target) -> None:
    """A site offers models of half a million tensors."""
    message = pb.ModelHeader(tensors=[pb.TensorSpec()] * 500_000).SerializeToString()
    _again(target, "Offer", target.token(), [message])


def slots(target: Target) -> None:
    """A site asks for models and never reads them, and starts uploads and sends nothing.

    Each call waits for its slot, holds it, and comes again.
    """
    metadata = target.token()
    request = pb.PullRequest(
        model="round_000", chunks=[pb.Range(first=0, count=12)]
    ).SerializeToString()

    def hold(method: str) -> None:
        with target.channel() as channel:
            while not target.over.is_set():

                def messages():
                    if method == "Pull":
                        yield request
                    target.over.wait(6)

                call = channel.stream_stream(_SERVICE + method)(
                    messages(), metadata=metadata, timeout=30
                )
                target.over.wait(6)
                call.cancel()

    _together([lambda: hold("Pull")] * 3 + [lambda: hold("Send")] * 3)


def operation_calls(target: Target) -> None:
    """A site keeps as many calls to the operator's service open as it can."""
    secret = (target.kit / "credential").read_text(encoding="ascii").strip()
    with target.channel() as channel:
        while not target.over.is_set():

            def silent():
                target.over.wait(5)
                yield from ()

            calls = [
                channel.stream_stream("/federation_operation.Operation/Probe")(
                    silent(), metadata=conversion.credential_metadata("C4", secret)
                )
                for _ in range(90)
            ]
            target.over.wait(5)
            for call in calls:
                call.cancel()


def _again(
    target: Target, method: str, metadata: conversion.Metadata, messages: list[bytes]
) -> None:
    with target.channel() as channel:
        while not target.over.is_set():
            with contextlib.suppress(grpc.RpcError):
                list(
                    channel.stream_stream(_SERVICE + method)(
                        iter(messages), metadata=metadata, timeout=20
                    )
                )


def logins(target: Target) -> None:
    """A site logs in again and again, also with plans of half a megabyte."""
    plan = {f"k{i:06d}": i for i in range(20_000)}
    while not target.over.is_set():
        with contextlib.suppress(errors.FederationError):
            transport = target.transport()
            with contextlib.suppress(errors.FederationError):
                transport.login(plan, 5)
            transport.close()


def numbers(target: Target) -> None:
    """A site reports scores out of range, and metrics and cases that are not its own."""
    with contextlib.suppress(errors.FederationError):
        transport = target.transport()
        while not target.over.is_set():
            for value in (1.7e308, 1e39, -1.0, 2.0):
                with contextlib.suppress(errors.FederationError):
                    transport.report_scores(0, {"dice": value})
        transport.close()


def pulls(target: Target) -> None:
    """A site keeps fetching models, several at once, and reads slowly."""
    metadata = target.token()

    def fetch() -> None:
        with target.channel() as channel:
            request = pb.PullRequest(
                model="round_000", chunks=[pb.Range(first=0, count=12)]
            ).SerializeToString()
            while not target.over.is_set():
                with contextlib.suppress(grpc.RpcError):
                    for _ in channel.unary_stream(_SERVICE + "Pull")(
                        request, metadata=metadata, timeout=30
                    ):
                        target.over.wait(0.2)

    _together([fetch] * 8)


def poison(target: Target) -> None:
    """A site pushes absurd updates for every round it can."""
    path = target.folder / "poison.safetensors"
    arrays = {name: np.full_like(array, 3e38) for name, array in toy.initial(BULK).items()}
    sha256 = tensor_files.save(path, arrays)
    while not target.over.is_set():
        with contextlib.suppress(errors.FederationError):
            transport = target.transport()
            number = transport.next_task().round or 1
            with contextlib.suppress(errors.FederationError):
                transport.push(path, sha256, round_number=number, num_examples=5, metrics={})
            with contextlib.suppress(errors.FederationError):
                transport.push(
                    path, sha256, round_number=number, num_examples=5_000_000, metrics={}
                )
            transport.close()
            target.over.wait(0.2)


def names(target: Target) -> None:
    """A site publishes models under other sites' names, and many of its own too early."""
    path = target.folder / "lent.safetensors"
    sha256 = tensor_files.save(path, toy.initial(BULK))
    manifest = tensor_files.file_manifest(tensor_files.TensorFile(path))
    metadata = target.token()
    with target.channel() as channel:
        number = 0
        while not target.over.is_set():
            number += 1
            for name in ("C1_FL_local", "FL_global", f"C4_{number}"):
                header = conversion.header_to_message(
                    Offer(manifest, model=name)
                ).SerializeToString()
                with contextlib.suppress(grpc.RpcError):
                    list(
                        channel.stream_stream(_SERVICE + "Offer")(
                            iter([header]), metadata=metadata, timeout=20
                        )
                    )
    assert sha256


def _together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


ATTACKS = {
    attack.__name__: attack
    for attack in (
        idle,
        half_handshakes,
        idle_with_certificate,
        half_open,
        slots,
        operation_calls,
        rows,
        headers,
        logins,
        numbers,
        pulls,
        poison,
        names,
    )
}


def _attack(name: str, folder: str, port: int, over) -> None:
    ATTACKS[name](Target(folder, port, over))


def _site(folder: str, site: str, port: int, starts) -> None:
    """An honest site that reports when each of its rounds begins."""
    root = pathlib.Path(folder)
    transport = grpc_transport.connect(root / "kits" / site, host="localhost", port=port)
    trainer = Trainer(site, on_train=lambda number: starts.put((site, number, time.monotonic())))
    site_loop.run(trainer, transport, root / f"journal_{site}")


def expected(rounds: int) -> np.ndarray:
    """Returns the tensor "scale" of the last global model, computed by plain arithmetic."""
    value, total = 2.0, sum(toy.EXAMPLES[site] for site in HONEST)
    for number in range(1, rounds + 1):
        mean = sum(
            toy.EXAMPLES[s]
            * float(
                np.float32(np.float32(value) * np.float32(0.5) + np.float32(toy.STEP[s] * number))
            )
            for s in HONEST
        )
        value = float(np.float32(mean / total))
    return np.float32(value)


def memory_mib(pid: int) -> float:
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:  # it has just ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def disk_mib(folder: pathlib.Path) -> float:
    total = 0
    for inside, _, names in os.walk(folder):  # skips folders that are removed meanwhile
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(inside, name)).st_size
    return total / 2**20


def run(attack: str | None, *, rounds: int = 60, warm_up_s: float = 10.0) -> dict:
    """Returns what honest sites and operator observe during an attack; None means no attack."""
    context = multiprocessing.get_context("spawn")
    folder = pathlib.Path(tempfile.mkdtemp())
    processes: list[multiprocessing.Process] = []
    stack = contextlib.ExitStack()
    over, starts = context.Event(), context.Queue()
    try:
        provisioning.provision(folder / "kits", "localhost", (*HONEST, "C4"), port=0)
        toy.write_initial(folder / "initial.safetensors", arrays=toy.initial(BULK))
        leading, port = stack.enter_context(
            server_program.serving(folder, num_rounds=rounds, **_SERVER)
        )
        kit = admin_client.Kit.read(folder / "kits" / "operator", host="localhost", port=port)
        with admin_client.AdminClient(kit) as operator:
            operator.status()
        before = memory_mib(leading.pid)
        if attack:
            attacker = context.Process(
                target=_attack, args=(attack, str(folder), port, over), daemon=True
            )
            attacker.start()
            processes.append(attacker)
        began = time.monotonic()
        sites = [
            context.Process(target=_site, args=(str(folder), site, port, starts), daemon=True)
            for site in HONEST
        ]
        for process in sites:
            process.start()
        processes += sites
        peak, disk, waits, unanswered = before, 0.0, [], []
        while (
            any(process.is_alive() for process in sites)
            and leading.is_alive()
            and time.monotonic() < began + 600
        ):
            peak, disk = max(peak, memory_mib(leading.pid)), max(disk, disk_mib(folder / "store"))
            asked = time.monotonic()
            try:
                with admin_client.AdminClient(kit) as operator:
                    operator.status()
                waits.append((asked - began, time.monotonic() - asked))
            except errors.FederationError:
                unanswered.append(asked - began)
            sites[0].join(0.25)
        times: dict[int, float] = {}
        while not starts.empty():
            _, number, at = starts.get()
            times[number] = max(times.get(number, 0.0), at - began)
        spans = [
            times[n + 1] - times[n]
            for n in sorted(times)
            if n + 1 in times and times[n] >= warm_up_s
        ]
        over.set()
        leading.join(60)
        for process in sites:
            process.join(10)
        last = folder / "store" / "global" / f"round_{rounds:03d}.safetensors"
        return {
            "attack": attack,
            "right": last.is_file()
            and bool(tensor_files.load(last)[0]["scale"] == expected(rounds)),
            "round_s": round(statistics.median(spans), 3) if spans else None,
            "rounds_timed": len(spans),
            "memory_growth_mib": round(peak - before, 1),
            "store_mib": round(disk, 1),
            "status_s": round(
                max((wait for at, wait in waits if at >= warm_up_s), default=float("nan")), 2
            ),
            # Without those while the server was stopping.
            "status_unanswered": sum(
                warm_up_s <= at <= max(times.values(), default=0.0) for at in unanswered
            ),
            "status_answered": sum(warm_up_s <= at for at, _ in waits),
            "exit_codes": [leading.exitcode, *(process.exitcode for process in sites)],
        }
    finally:
        over.set()
        for process in reversed(processes):
            process.join(5)
            process.kill()
        stack.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--attacks", default=",".join(ATTACKS), help="names of attacks, separated by commas"
    )
    parser.add_argument("--rounds", type=int, default=60)
    flags = parser.parse_args()
    attacks, began = flags.attacks.split(","), time.monotonic()
    print("a run without an attack comes first; it tells what the others cost", flush=True)
    base = run(None, rounds=flags.rounds)
    cost.tell(f"{len(attacks)} attacks", len(attacks) * (time.monotonic() - began))
    print(json.dumps(base), flush=True)
    for attack in attacks:
        found = run(attack, rounds=flags.rounds)
        if found["round_s"] and base["round_s"]:
            found["times_as_slow"] = round(found["round_s"] / base["round_s"], 2)
        found["memory_beyond_mib"] = round(
            found["memory_growth_mib"] - base["memory_growth_mib"], 1
        )
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
