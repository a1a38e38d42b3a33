"""Measures how fast a model is transferred, beside a plain gRPC stream and raw sockets.

    .venv/py3.11/bin/python -m tests.benchmarks.transfer_speed --repetitions 5

The plain stream sends the same chunks as messages of raw bytes under the same mutual TLS; its
receiver hashes, writes and syncs too. Server and client are separate processes on loopback. Raw
sockets use neither TLS nor hashes nor disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import socket
import tempfile
import time

from tests.benchmarks import side_by_side
from tests.benchmarks.side_by_side import Candidate
from tests.federated import server_program

MEGABYTES = int(os.environ.get("TRANSFER_MB", "256"))
CHUNK = 2**20
_PLAN = {"what": "benchmark"}
_SERVER = {
    "num_rounds": 1,
    "min_num_clients": 2,
    "max_num_clients": 2,
    "poll_s": 1.0,
    "max_change_ratio": 0,
}


def _kits(folder: pathlib.Path):
    from federated.security import provisioning

    return provisioning.provision(folder / "kits", "localhost", ("C1", "C2"), port=0)


def _model(path: pathlib.Path, value: float = 0.0, **metadata: str):
    import numpy as np

    from federated.tensors import tensor_files

    noise = np.random.default_rng(1).normal(size=7 * 2**20).astype(np.float32) + np.float32(
        value
    )  # 28 MiB, the largest tensor
    count = MEGABYTES // 28 + 1
    return tensor_files.save_as(path, {f"layer_{i}": noise for i in range(count)}, metadata)


def ours() -> dict[str, float]:
    from federated.site import grpc_transport

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kits = _kits(folder)
        _model(folder / "initial.safetensors", plan=json.dumps(_PLAN))
        manifest = _model(folder / "update.safetensors", 0.5)
        size = (folder / "update.safetensors").stat().st_size / 1e6
        with server_program.serving(name, **_SERVER) as (_, port):
            transport = grpc_transport.connect(kits / "C1", host="localhost", port=port)
            transport.login(_PLAN, 30)
            began = time.perf_counter()
            transport.push(
                folder / "update.safetensors",
                manifest.sha256,
                round_number=1,
                num_examples=30,
                metrics={},
                manifest=lambda: manifest,
            )
            up = time.perf_counter() - began
            began = time.perf_counter()
            transport.pull("round_000", folder / "incoming.safetensors")
            down = time.perf_counter() - began
            transport.close()
    return {"up MB/s": size / up, "down MB/s": size / down}


def _serve_plain(folder: str, ports) -> None:
    from concurrent import futures

    import grpc

    from federated.security.tls import Identity

    def up(requests, context):
        digest = hashlib.sha256()
        with open(pathlib.Path(folder) / "received", "wb") as file:
            for data in requests:
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return digest.digest()

    def down(request, context):
        with open(pathlib.Path(folder) / "initial.safetensors", "rb") as file:
            while data := file.read(CHUNK):
                yield data

    handlers = {
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Down": grpc.unary_stream_rpc_method_handler(down),
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 4 * CHUNK)]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("plain", handlers),))
    port = server.add_secure_port(
        "127.0.0.1:0", Identity.of(pathlib.Path(folder) / "kits" / "server", "server").for_server()
    )
    server.start()
    ports.put(port)
    server.wait_for_termination()


def plain_stream() -> dict[str, float]:
    import grpc

    from federated.security.tls import Identity

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kits = _kits(folder)
        _model(folder / "initial.safetensors")
        size = (folder / "initial.safetensors").stat().st_size / 1e6

        def chunks():
            with open(folder / "initial.safetensors", "rb") as file:
                while data := file.read(CHUNK):
                    yield data

        with server_program.running(_serve_plain, name) as (_, port):
            credentials = Identity.of(kits / "C1", "site").for_client()
            with grpc.secure_channel(
                f"localhost:{port}",
                credentials,
                options=[("grpc.max_receive_message_length", 4 * CHUNK)],
            ) as channel:
                grpc.channel_ready_future(channel).result(30)
                began = time.perf_counter()
                channel.stream_unary("/plain/Up")(chunks())
                up = time.perf_counter() - began
                began = time.perf_counter()
                digest = hashlib.sha256()
                with open(folder / "incoming", "wb") as file:
                    for data in channel.unary_stream("/plain/Down")(b""):
                        digest.update(data)
                        file.write(data)
                down = time.perf_counter() - began
    return {"up MB/s": size / up, "down MB/s": size / down}


def _serve_raw(size: int, ports) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ports.put(listener.getsockname()[1])
    connection, _ = listener.accept()
    left, buffer = size, bytearray(CHUNK)
    while left:
        left -= connection.recv_into(buffer, min(left, CHUNK))
    connection.sendall(b"k")
    connection.sendall(bytes(size))
    connection.recv(1)


def raw_sockets() -> dict[str, float]:
    size = MEGABYTES * 10**6
    with (
        server_program.running(_serve_raw, size) as (_, port),
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        data, buffer = bytes(CHUNK), bytearray(CHUNK)
        began, left = time.perf_counter(), size
        while left:
            left -= connection.send(data[: min(left, CHUNK)])
        connection.recv(1)
        up = time.perf_counter() - began
        began, left = time.perf_counter(), size
        while left:
            left -= connection.recv_into(buffer, min(left, CHUNK))
        down = time.perf_counter() - began
    return {"up MB/s": size / 1e6 / up, "down MB/s": size / 1e6 / down}


def main() -> None:
    flags = side_by_side.arguments(__doc__)
    names = ("ours", "plain_stream", "raw_sockets")
    figures = side_by_side.measure(
        [Candidate(name, f"tests.benchmarks.transfer_speed:{name}") for name in names],
        repetitions=flags.repetitions,
    )
    for figure in ("up MB/s", "down MB/s"):
        print(side_by_side.table(figures, figure=figure, reference="plain_stream"), "\n")


if __name__ == "__main__":
    main()
