"""A server or a toy site as a separate program, which can kill itself at a named point.

    python -m tests.federated.toy_process server <store> <kit> <initial> [kill]
    python -m tests.federated.toy_process site <journal> <kit> <port> [kill]

A kill is "<where>:<before|after>:<n>": at the n-th call of a class's method or a module's function,
e.g. "Store.close_round:before:1", or "event:<name>:<n>": once the n-th event of that name is in the
log.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys

from federated.aggregation import spooled_updates
from federated.server import config as server_config
from federated.server import coordinator, uploads
from federated.server.serve import serve
from federated.site import grpc_transport, journal
from federated.site import loop as site_loop
from federated.storage import database, store
from federated.tensors import codec, partial_file, tensor_files
from federated.wire import chunk_encoding
from runkit import atomic, events
from tests.federated import toy

PLACES = {
    "Store": store.Store,
    "Records": database.Records,
    "spooled_updates": spooled_updates,
    "atomic": atomic,
    "Coordinator": coordinator.Coordinator,
    "Journal": journal.Journal,
    "GrpcTransport": grpc_transport.GrpcTransport,
    "ToyTrainer": toy.ToyTrainer,
    "PartialModel": partial_file.PartialModel,
    "Uploads": uploads.Uploads,
    "codec": codec,
    "chunk_encoding": chunk_encoding,
    "tensor_files": tensor_files,
}


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_kill(point):
    where, when, count = point.split(":")
    left = [int(count)]

    def reached():
        left[0] -= 1
        if left[0] == 0:
            _die()

    if where == "event":
        add = events.EventLog._add  # of every kind of event log

        def killing_add(self, event, fields):
            size = add(self, event, fields)
            if event == when:
                reached()
            return size

        events.EventLog._add = killing_add
        return
    place, name = where.split(".")
    original = getattr(PLACES[place], name)

    def replacement(*given, **named):
        if when == "before":
            reached()
        result = original(*given, **named)
        if when == "after":
            reached()
        return result

    setattr(PLACES[place], name, replacement)


def main(role, folder, kit, third, *kill):
    if kill:
        arrange_kill(kill[0])
    if role == "server":
        given = filter(None, os.environ.get("TOY_MODELS", "").split(os.pathsep))
        config = server_config.ServerConfig(
            num_rounds=int(os.environ.get("TOY_ROUNDS", "3")),
            aggregation=os.environ.get("TOY_AGGREGATION", "fedavg"),
            port=0,
            host="127.0.0.1",
            poll_s=5.0,
            linger_s=30.0,
        )
        models = {pathlib.Path(path).stem: path for path in given}
        summary = serve(config, folder, kit, third, vocabulary=toy.VOCABULARY, models=models)
    else:
        transport = grpc_transport.connect(kit, host="localhost", port=int(third))
        summary = site_loop.run(
            toy.ToyTrainer(transport.site, bulk=int(os.environ.get("TOY_BULK", "0"))),
            transport,
            folder,
            pauses=lambda: iter(lambda: 0.1, None),
        )
    print(summary)
    return 0 if summary.finished else 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
