"""Sends forged, replayed, expired, truncated, oversized and random requests to a running server.

    .venv/py3.11/bin/python -m tests.soak.forged --requests=100000

The attacker has the certificate of C3, because without one the handshake fails. Its tokens are made
up, expired, truncated, or stolen from C1. The honest sites C1 and C2 do their rounds meanwhile. It
prints how many requests were accepted (there must be none), the server's memory before and after,
and whether the honest rounds gave the right bits.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import tempfile
import threading
from collections import Counter

import grpc

from federated.security import provisioning
from federated.security.tls import Identity
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.tensors import tensor_files
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from tests.federated import server_program, toy
from tests.soak import cost

_SERVER = {"poll_s": 2.0, "keep_globals": 2, "max_change_ratio": 0}
_REQUEST_S, _ROUND_S = 1e-3, 0.1
_SERVICE = "/weight_exchange.WeightExchange/"
UNARY = ("Login", "NextTask", "HeartBeat", "Describe", "ReportScores", "Offer", "DeclareModels")
UPLOADS = ("Send", "SubmitRows")


def tokens(rng: random.Random, stolen: str) -> list[str]:
    """Returns authorisations that must all be refused."""
    made_up = "".join(
        rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
        for _ in range(43)
    )
    flipped = stolen[:-1] + ("A" if stolen[-1] != "A" else "B")
    return [
        "",
        "Bearer ",
        f"Bearer {made_up}",
        f"Bearer {stolen}",  # with another certificate
        f"Bearer {stolen[: rng.randrange(1, 43)]}",
        f"Bearer {flipped}",
        f"bearer {stolen}",
        f"Bearer {stolen} ",
        f"Credential C1:{made_up}",
        f"Credential C1:{stolen}",
        "Bearer " + "A" * rng.choice([1000, 7000]),
        "Basic " + made_up,
    ]


def bodies(rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return pb.LoginRequest(
            site="C1", plan_json=json.dumps(toy.PLAN), num_examples=30, protocol=2
        ).SerializeToString()
    if kind == 2:
        return pb.ModelHeader(
            round=1, num_examples=30, sha256="0" * 64, addresses=rng.randbytes(32)
        ).SerializeToString()
    if kind == 3:
        return pb.ModelPart(
            header=pb.ModelHeader(tensors=[pb.TensorSpec(name="a", dtype="F32", shape=[2**40])])
        ).SerializeToString()[:-3]
    if kind == 4:
        return pb.Chunk(
            index=rng.randrange(2**32), data=rng.randbytes(64), encoding=rng.randrange(9)
        ).SerializeToString()
    return bytes(rng.choice([2**16, 2**20, 5 * 2**20]) if rng.random() < 0.02 else 10)


def attack(
    port: int, identity: Identity, stolen: str, count: int, seed: int, outcomes: Counter
) -> None:
    rng = random.Random(seed)
    with grpc.secure_channel(
        f"localhost:{port}", identity.for_client(), options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        for _ in range(count):
            metadata = ((conversion.TOKEN_KEY, rng.choice(tokens(rng, stolen))),)
            name, body = rng.choice((*UNARY, *UPLOADS, "Pull", "Nothing")), bodies(rng)
            try:
                if name in UPLOADS:
                    channel.stream_unary(_SERVICE + name)(
                        iter([body] * rng.randint(0, 3)), metadata=metadata, timeout=20
                    )
                elif name == "Pull":
                    for _reply in channel.unary_stream(_SERVICE + name)(
                        body, metadata=metadata, timeout=20
                    ):
                        break
                else:
                    channel.unary_unary(_SERVICE + name)(body, metadata=metadata, timeout=20)
                outcomes["accepted"] += 1
            except grpc.RpcError as error:
                outcomes[error.code().name.lower()] += 1


def memory(pid: int) -> float:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def run(requests: int, *, threads: int = 4, rounds: int = 20, seed: int = 1) -> dict:
    """Returns the outcomes, the server's memory and the honest rounds.

    The memory is in MiB before and after; of the honest rounds, the number of right ones counts.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kits = provisioning.provision(folder / "kits", "localhost", ("C1", "C2", "C3"), port=0)
        toy.write_initial(folder / "initial.safetensors")
        with server_program.serving(name, num_rounds=rounds, **_SERVER) as (process, port):
            honest = {
                site: grpc_transport.connect(kits / site, host="localhost", port=port)
                for site in ("C1", "C2")
            }
            stolen = honest["C1"].login(toy.PLAN, toy.EXAMPLES["C1"]).token
            identity, outcomes, memories = Identity.of(kits / "C3", "site"), Counter(), []
            attack(
                port, identity, stolen, 200, seed, outcomes
            )  # memory that grows only once grows here
            memories.append(memory(process.pid))
            over = threading.Event()

            def hold_last_round(number: int) -> None:
                """Keeps the run and the server going until every request has its answer."""
                if number == rounds:
                    over.wait()

            sites = [
                threading.Thread(
                    target=site_loop.run,
                    args=(toy.ToyTrainer(site, on_train=hold_last_round), transport, folder / site),
                    daemon=True,
                )
                for site, transport in honest.items()
            ]
            attackers = [
                threading.Thread(
                    target=attack,
                    args=(port, identity, stolen, requests // threads, seed + n + 1, outcomes),
                    daemon=True,
                )
                for n in range(threads)
            ]
            for thread in [*attackers, *sites]:
                thread.start()
            for thread in attackers:
                thread.join()
            memories.append(memory(process.pid))
            over.set()
            for thread in sites:
                thread.join()
            expected = toy.expected_globals(("C1", "C2"), rounds)
            arrays, _ = tensor_files.load(
                folder / "store" / "global" / f"round_{rounds:03d}.safetensors"
            )
            right = all((arrays[n] == a.astype("f4")).all() for n, a in expected[rounds].items())
    return {"outcomes": dict(outcomes), "memory_mib": memories, "honest_rounds_right": right}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=400, help="rounds of the honest sites")
    flags = parser.parse_args()
    cost.tell(
        f"{flags.requests} requests beside {flags.rounds} rounds",
        max(_REQUEST_S * flags.requests, _ROUND_S * flags.rounds),
    )
    print(json.dumps(run(flags.requests, rounds=flags.rounds), indent=2))


if __name__ == "__main__":
    main()
