"""Counts the Python calls, functions and files that the server runs to receive one update.

    .venv/py3.11/bin/python -m tests.benchmarks.push_trace [--list]

A server on loopback takes one update of a model of three tensors and one chunk, over mutual TLS.
The count covers everything in `federated/` and `runkit/` that the server runs for the update, from
the arrival of `Offer` to the receipt of `Send`: in the thread in which gRPC receives a call's
headers and in those that handle calls. It leaves out the site, which runs in the main thread, and
the threads that watch the calls and the port and that lead the rounds.

A call is the start of a Python function; a generator that is resumed does not start. Python 3.11
runs every comprehension as a function, later versions only generator expressions, so compare
figures of one version.

                                    Python 3.11            Python 3.12
    every layer checks              642 calls, 36 files    603 calls, 36 files
    checked values, fewer layers    332 calls, 35 files    312 calls, 35 files
    one look per check              265 calls, 35 files    255 calls, 35 files
    rules of sharing, sums          292 calls, 37 files    282 calls, 37 files
    values passed on                223 calls, 34 files    216 calls, 34 files

The 223 calls by folder: server 60, storage 36 (mostly statements in SQLite), connections 34,
security 26 (five looks at a token: at the headers and at the connection of either call, and before
the update counts, since an upload may take hours in which the site may be evicted), tensors 24,
wire 16, rounds 9, runkit 7, aggregation 6, audit 5.

18 of them occur because `Send` repeats the header of `Offer`: the round may have ended between the
two, so the header is decoded and compared with the round again.
"""

from __future__ import annotations

import argparse
import collections
import dis
import functools
import pathlib
import sys
import tempfile
import threading
import types
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PRODUCT = tuple(f"{ROOT / name}/" for name in ("federated", "runkit"))
_SETTLE_S = 0.5  # for what the server still does after it has answered


class Trace:
    """Counts the product's calls in the server's threads while `counting` is set.

    Install it with `threading.setprofile` before the server starts its threads.
    """

    def __init__(self) -> None:
        self.counting = False
        self.calls = collections.Counter[tuple[str, str]]()  # (file, function) -> calls

    def __call__(self, frame: types.FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if (
            event == "call"
            and self.counting
            and code.co_filename.startswith(_PRODUCT)
            and frame.f_lasti < _first_yield(code)
            and _handles_calls(threading.current_thread().name)
        ):
            file = str(pathlib.Path(code.co_filename).relative_to(ROOT))
            self.calls[file, code.co_qualname] += 1

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.calls}


def _handles_calls(thread: str) -> bool:
    return thread.startswith("rpc") or thread.endswith("(_serve)")  # gRPC's names for them


@functools.cache
def _first_yield(code: types.CodeType) -> int:
    """Returns the position of a generator's first yield; beyond it, the generator is resumed."""
    places = (i.offset for i in dis.get_instructions(code) if i.opname in ("YIELD_VALUE", "SEND"))
    return next(places, sys.maxsize)


def one_push() -> Trace:
    """Serves a run, sends it one update, and returns the trace of that."""
    trace = Trace()
    threading.setprofile(trace)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _push(pathlib.Path(folder), trace)
    finally:
        threading.setprofile(None)  # type: ignore[arg-type] # typeshed knows no way to end it
    return trace


def _push(folder: pathlib.Path, trace: Trace) -> None:
    from federated.security import provisioning
    from federated.server.config import ServerConfig
    from federated.server.serve import serve
    from federated.site import grpc_transport
    from federated.tensors import tensor_files
    from tests.federated import toy

    kits = provisioning.provision(folder / "kits", "localhost", ("C1", "C2"), port=0)
    initial = toy.write_initial(folder / "initial.safetensors")
    update = folder / "update.safetensors"
    sha256 = tensor_files.save(
        update, {name: array + np.float32(0.25) for name, array in toy.INITIAL.items()}
    )
    config = ServerConfig(num_rounds=2, port=0, host="127.0.0.1", linger_s=0.0)
    ready, stop, ports = threading.Event(), threading.Event(), list[int]()

    def on_ready(port: int) -> None:
        ports.append(port)
        ready.set()

    server = threading.Thread(
        target=serve,
        args=(config, folder / "store", kits / "server", initial),
        kwargs={"vocabulary": toy.VOCABULARY, "stop": stop, "on_ready": on_ready},
        daemon=True,
    )
    server.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("the server did not start within 30 s")
        transport = grpc_transport.connect(kits / "C1", host="localhost", port=ports[0])
        transport.login(toy.PLAN, 30)
        server.join(_SETTLE_S)
        trace.counting = True
        transport.push(
            update,
            sha256,
            round_number=1,
            num_examples=30,
            metrics={"loss": 1.0},
            discarded=0,
        )
        server.join(_SETTLE_S)
        trace.counting = False
        transport.close()
    finally:
        stop.set()
        server.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name every function and its calls")
    flags = parser.parse_args()
    trace = one_push()
    for file in sorted(trace.files, key=lambda name: -_calls_in(trace, name)):
        print(f"{_calls_in(trace, file):4d}  {file}")
        if flags.list:
            for (where, function), count in trace.calls.most_common():
                if where == file:
                    print(f"      {count:4d}  {function}")
    print(
        f"Python {sys.version_info.major}.{sys.version_info.minor}: {trace.calls.total()} calls of "
        f"{len(trace.calls)} functions in {len(trace.files)} files"
    )


def _calls_in(trace: Trace, file: str) -> int:
    return sum(count for (where, _), count in trace.calls.items() if where == file)


if __name__ == "__main__":
    main()
